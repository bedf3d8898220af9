"""``manage.py peers``."""

import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from dwsps_channels.models import Peer, PeerStatus
from dwsps_channels.models.secrets import validate_secret
from dwsps_channels.peering import lease, store
from dwsps_channels.peering.inbound.reporter import Report, write_reports
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus
from tests.processes import FORKS, HOST, ROOT, base_environment, free_port

SECRET = "correct-horse-battery-staple"
URL = "ws://b.example/"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_log_tells(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield
    assert SECRET not in "".join(record.getMessage() for record in caplog.get_records("call"))


def run(*arguments: str) -> str:
    """Return its output, of both streams."""
    out = io.StringIO()
    call_command("peers", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def failure(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def listed() -> list[dict[str, Any]]:
    peers: list[dict[str, Any]] = json.loads(run("list", "--json"))
    return peers


# add


def test_a_peer_is_added_with_a_generated_secret_that_is_shown_this_once() -> None:
    shown = run("add", "b", URL, "--generate").splitlines()[-1]
    peer = Peer.objects.get()
    assert (peer.name, peer.url, peer.secret) == ("b", URL, shown)
    assert (peer.enabled, peer.forward, peer.accept, peer.topic_list) == (True, True, True, ())
    validate_secret(shown)
    assert shown not in run("list") + run("list", "--json")


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\nanother line\n")
    assert run("add", "b", URL, "--secret-file", str(file)) == "added b\n"
    assert Peer.objects.get().secret == SECRET


def test_a_secret_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SECRET + "\n"))
    assert run("add", "b", URL, "--secret-file", "-") == "added b\n"
    assert Peer.objects.get().secret == SECRET


def test_a_token_in_the_url_is_kept_as_the_secret_and_shown_nowhere() -> None:
    shown = run("add", "b", f"{URL}?token={SECRET}") + run("list") + run("list", "--json")
    assert SECRET not in shown
    assert (Peer.objects.get().secret, Peer.objects.get().url) == (SECRET, URL)


def test_options_say_what_goes_which_way() -> None:
    options = ("--no-forward", "--no-accept", "--disabled", "--topic", "news", "--topic", "a.b")
    run("add", "b", URL, "--generate", *options)
    peer = Peer.objects.get()
    assert (peer.enabled, peer.forward, peer.accept) == (False, False, False)
    assert peer.topic_list == ("news", "a.b")


def test_only_a_dwsps_server_needs_no_secret() -> None:
    assert "the secret is missing" in failure("add", "b", URL)
    assert not Peer.objects.exists()
    assert "it cannot send to this server" in run("add", "b", URL, "--dwsps")
    assert run("add", "c", URL, "--dwsps", "--no-accept") == "added c\n"
    assert [(peer["dwsps"], peer["has_secret"]) for peer in listed()] == [(True, False)] * 2


def test_what_is_wrong_is_said_and_nothing_is_added(tmp_path: Path) -> None:
    short, binary = tmp_path / "short", tmp_path / "binary"
    short.write_text("short\n")
    binary.write_bytes(b"\xff\xfe\xff")
    for arguments, words in (
        (("b b", URL, "--dwsps"), "name: a name has"),
        (("b", "http://b.example/", "--dwsps"), "url: a peer's URL begins with ws://"),
        (("b", URL, "--dwsps", "--topic", "a..b"), "topics: 'a..b' has an empty level"),
        (("b", URL, "--secret-file", str(short)), "secret: a secret has at least 16"),
        (("b", URL, "--secret-file", str(tmp_path / "no")), "no such file"),
        (("b", URL, "--secret-file", str(tmp_path)), "is a directory"),
        (("b", URL, "--secret-file", str(binary)), "not text in UTF-8"),
        (("b", f"{URL}?token={SECRET}", "--generate"), "two secrets"),
        (("b", URL, "--generate", "--secret-file", "-"), "not allowed with"),
        (("b",), "required: URL"),
    ):
        assert words in failure("add", *arguments)
    assert not Peer.objects.exists()


def test_a_name_is_not_added_twice() -> None:
    run("add", "b", URL, "--generate")
    assert "already exists" in failure("add", "b", URL, "--generate")


# list


def test_the_list_tells_of_each_peer_what_the_worker_told() -> None:
    run("add", "b", f"{URL}?token={SECRET}", "--topic", "news")
    peer = Peer.objects.get()
    lease.acquire("web-1:4711:0a1b2c3d", 60)
    status = LinkStatus(
        LinkState.BACKING_OFF,
        since=time.time() - 130,
        last_error="nobody there",
        round_trip=0.5,
        stats=LinkStats(
            forwarded=9,
            acked=5,
            resent=2,
            dropped=3,
            missed=1,
            reconnects=6,
        ),
    )
    store.write_statuses({peer.pk: status})
    PeerStatus.objects.update(lag=1204, oldest_at=time.time() - 200)
    begun = timezone.now() - timedelta(seconds=70)
    write_reports("one", {peer.pk: Report(1, "192.0.2.1", 2000, 4, 3, begun)})
    write_reports("two", {peer.pk: Report(0, "192.0.2.2", 300, 0, 0, None)})

    [found] = listed()
    assert found.pop("since") < found.pop("seen_at")
    assert 200 <= found.pop("lag_seconds") < 230
    inbound = found.pop("inbound")
    assert datetime.fromisoformat(inbound.pop("since")) == begun
    assert datetime.fromisoformat(inbound.pop("seen_at")) > begun
    assert inbound == {
        "state": "connected",
        "text": "connected, for 1 min",
        "connections": 1,
        "addresses": ["192.0.2.1"],
        "received": 2300,
        "duplicates": 4,
        "refused": 3,
    }
    assert found == {
        "name": "b",
        "url": URL,
        "state": "backing_off",
        "text": "backing off, for 2 min",
        "enabled": True,
        "forward": True,
        "accept": True,
        "dwsps": False,
        "topics": ["news"],
        "has_secret": True,
        "last_error": "nobody there",
        "round_trip": 0.5,
        "forwarded": 9,
        "acked": 5,
        "dropped": 3,
        "missed": 1,
        "resent": 2,
        "reconnects": 6,
        "lag": 1204,
        "loses_in": None,
    }
    worker, head, row = run("list").splitlines()
    assert worker == "forwarded by web-1, process 4711 (MemoryBackend)"
    assert re.split("  +", head) == [
        "NAME",
        "SENDING",
        "DIRECTIONS",
        "LAG",
        "DROPPED",
        "RECEIVING",
        "URL",
        "LAST ERROR",
    ]
    assert re.split("  +", row) == [
        "b",
        "backing off, for 2 min",
        "send+accept",
        "1\u00a0204 · oldest 3 min",
        "3",
        "connected, for 1 min · 2\u00a0300 received",
        URL,
        "nobody there",
    ]


def test_the_list_says_which_peer_will_lose_messages(settings: Any) -> None:
    settings.DWSPS = {**settings.DWSPS, "TAIL_MAX_AGE": 3600}
    run("add", "b", f"{URL}?token={SECRET}")
    lease.acquire("worker", 60)
    store.write_statuses({Peer.objects.get().pk: LinkStatus(LinkState.CONNECTED)})
    PeerStatus.objects.update(lag=5, oldest_at=time.time() - 3000)
    [found] = listed()
    assert 570 < found["loses_in"] <= 600
    assert run("list").splitlines()[-1] == (
        "b will lose messages in 9 min: the log keeps at most 10\u00a0000 messages, for 1 h"
    )
    PeerStatus.objects.update(oldest_at=time.time() - 1000)
    assert listed()[0]["loses_in"] is None
    assert "will lose" not in run("list")


def test_without_a_worker_the_list_says_what_to_start() -> None:
    run("add", "b", URL, "--generate")
    assert "no worker is running: start 'manage.py runpubsub'" in run("list")
    run("disable", "b")
    assert "no worker is running" not in run("list")


def test_an_empty_list_says_what_to_do_and_is_a_list_all_the_same() -> None:
    assert "peers add NAME URL" in run("list")
    assert listed() == []


def test_a_peer_whose_secret_is_lost_is_listed(settings: Any) -> None:
    run("add", "b", f"{URL}?token={SECRET}")
    settings.SECRET_KEY = "new" * 20
    assert [(peer["state"], peer["has_secret"]) for peer in listed()] == [("no_secret", False)]
    assert "secret cannot be decrypted" in run("list")


# test


def test_the_test_says_what_it_found_and_fails_if_one_does(settings: Any) -> None:
    run("add", "lost", f"{URL}?token={SECRET}")
    settings.SECRET_KEY = "new" * 20
    run("add", "b", f"ws://{HOST}:{free_port()}/?token={SECRET}", "--disabled")
    out = io.StringIO()
    with pytest.raises(CommandError, match="2 failed"):
        call_command("peers", "test", stdout=out)
    first, second = out.getvalue().splitlines()
    assert first.startswith("b: cannot be reached")
    assert second.startswith("lost: its secret cannot be decrypted")
    assert "1 failed" in failure("test", "b")


def test_to_test_none_is_fine() -> None:
    assert run("test") == ""


# enable, disable, remove


def test_peers_are_enabled_disabled_and_removed() -> None:
    for name in ("a", "b", "c"):
        run("add", name, URL, "--generate")
    assert run("disable", "a", "b") == "disabled a, b\n"
    assert [peer["state"] for peer in listed()] == ["disabled", "disabled", "no_worker"]
    assert run("enable", "b") == "enabled b\n"
    assert [peer["state"] for peer in listed()] == ["disabled", "no_worker", "no_worker"]
    assert run("remove", "a", "c") == "removed a, c\n"
    assert [peer["name"] for peer in listed()] == ["b"]


@pytest.mark.parametrize("command", ["test", "enable", "disable", "remove"])
def test_a_name_that_is_not_known_suggests_close_ones_and_changes_nothing(command: str) -> None:
    run("add", "berlin", URL, "--generate")
    run("add", "paris", URL, "--dwsps")
    before = listed()
    said = failure(command, "paris", "berlni", "xyzzy")
    assert said == "there is no peer 'berlni'; did you mean berlin?\nthere is no peer 'xyzzy'"
    assert listed() == before


# As a program


def test_exit_statuses_and_streams(database: Path) -> None:
    env = base_environment(database)

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        return FORKS.run("peers", *arguments, env=env)

    added = subprocess.run(
        [sys.executable, "manage.py", "peers", "add", "b", URL, "--secret-file", "-"],
        cwd=ROOT,
        env=env,
        input=SECRET + "\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (added.returncode, added.stdout, added.stderr) == (0, "added b\n", "")
    failed = manage("enable", "c")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "CommandError: there is no peer 'c'\n"
    usage = manage("shout")
    assert (usage.returncode, usage.stdout) == (2, "")
    shown = manage("list", "--json")
    assert [peer["name"] for peer in json.loads(shown.stdout)] == ["b"]
    told = manage("--help")
    assert told.returncode == 0
    for word in ("add", "list", "test", "enable", "disable", "remove", "--secret-file -"):
        assert word in told.stdout
    everything = [added, failed, usage, shown, told]
    assert SECRET not in "".join(each.stdout + each.stderr for each in everything)
