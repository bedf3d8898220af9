"""Peers, their statuses and the lease on each database: several processes use them."""

import json
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT, manage

SECRET = "the-secret-of-this-peer"

WORK = f"""
from dwsps_channels.core.page import Position
from dwsps_channels.models import Peer
from dwsps_channels.peering import lease, store
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus

assert Peer.objects.get().secret == {SECRET!r}
[config] = store.load_peers()
stats = LinkStats(acked=2**40, dropped=5, missed=3, reconnects=2)
assert lease.acquire("the worker", 600)
for position in (Position("e:1", 1.5), Position("e" * 32 + ":" + "9" * 18, 1e9)):
    status = LinkStatus(LinkState.CONNECTED, 1e9, "\\0gone", 0.5, stats, position, 2**40, 5.0)
    assert store.write_for("the worker", {{config.id: status}})
    assert store.load_position(config) == position
assert not store.write_for("another worker", {{config.id: LinkStatus()}})
"""

REPORTS = """
from datetime import UTC, datetime, timedelta
from dwsps_channels.models import Peer, PeerInbound
from dwsps_channels.peering.inbound.reporter import Report, write_reports

peer = Peer.objects.get().pk
begun = datetime.now(UTC) - timedelta(seconds=90)
PeerInbound.objects.create(peer_id=peer, process="old", seen_at=begun - timedelta(days=1))
for received in (1, 2**40):
    write_reports("one", {peer: Report(1, "192.0.2.1", received, 2, 3, begun), peer + 1: None})
write_reports("two", {peer: Report(1, "::1", 4, 5, 6, begun)})
assert PeerInbound.objects.count() == 2
"""

RESTART = """
from dwsps_channels.core.page import Position
from dwsps_channels.models import Peer
from dwsps_channels.peering import lease, store

lease.release("the worker")
[config] = store.load_peers()
assert store.load_position(config).cursor
Peer.objects.disable()
Peer.objects.enable()
[config] = store.load_peers()
assert store.load_position(config) == Position("", config.enabled_at)
"""


def test_the_command_lists_what_the_worker_wrote(database_environment: dict[str, str]) -> None:
    url = f"ws://far.example/?token={SECRET}"
    manage("peers", "add", "far", url, env=database_environment)
    manage("shell", "-c", WORK, env=database_environment)
    [far] = json.loads(manage("peers", "list", "--json", env=database_environment))
    # A busy machine may make it stale meanwhile.
    assert "connected" in far["text"]
    assert (far["last_error"], far["acked"]) == (" gone", 2**40)
    assert (far["dropped"], far["missed"], far["reconnects"]) == (5, 3, 2)
    assert far["inbound"]["state"] == "never"
    manage("shell", "-c", REPORTS, env=database_environment)
    [far] = json.loads(manage("peers", "list", "--json", env=database_environment))
    inbound = far["inbound"]
    assert (inbound["text"], inbound["connections"]) == ("connected, for 1 min", 2)
    assert (inbound["received"], inbound["duplicates"], inbound["refused"]) == (2**40 + 4, 7, 9)
    manage("shell", "-c", RESTART, env=database_environment)
    manage("peers", "remove", "far", env=database_environment)
    assert json.loads(manage("peers", "list", "--json", env=database_environment)) == []


def test_of_processes_that_compete_one_has_the_lease_at_a_time(
    database_environment: dict[str, str], tmp_path: Path
) -> None:
    rounds, names = 20, ("one", "two")
    children = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.peering.lease_holder",
                name,
                str(rounds),
                tmp_path / "lock",
            ],
            cwd=ROOT,
            env=database_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            out, err = child.communicate(timeout=60)
            assert child.returncode == 0, err
            assert out == f"{rounds}\n"
    finally:
        for child in children:
            child.kill()
            child.communicate()
