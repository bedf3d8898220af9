"""Peers in the admin, by Django's test client; a browser has them in tests of whole servers."""

import logging
import re
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.views.debug import SafeExceptionReporterFilter
from pytest_django import DjangoAssertNumQueries

from dwsps_channels.models import Peer, PeerInbound, PeerStatus
from dwsps_channels.models.secrets import validate_secret
from dwsps_channels.peering import lease, store
from dwsps_channels.peering.inbound.reporter import Report, write_reports
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus
from tests.processes import HOST, free_port

SECRET = "correct-horse-battery-staple"
OTHER = "another-horse-and-its-battery"
URL = "ws://b.example/"

LIST = "admin:dwsps_channels_peer_changelist"
ADD = "admin:dwsps_channels_peer_add"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_log_tells(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield
    logged = "".join(record.getMessage() for record in caplog.get_records("call"))
    assert SECRET not in logged
    assert OTHER not in logged


@pytest.fixture
def browser(admin_client: Client) -> Client:
    return admin_client


def create(name: str = "b", **values: Any) -> Peer:
    return Peer.objects.create(**({"name": name, "url": URL, "secret": SECRET} | values))


def change_url(peer: Peer, view: str = "change") -> str:
    return reverse(f"admin:dwsps_channels_peer_{view}", args=[peer.pk])


def form(**values: str | None) -> dict[str, str]:
    """The fields that a browser sends: all that is filled in; ``None``: an empty checkbox."""
    ticked = {"enabled": "on", "forward": "on", "accept": "on"}
    filled = {"name": "b", "url": URL, "new_secret": "", "topics": ""} | ticked | values
    return {name: value for name, value in filled.items() if value is not None}


def text(response: Any) -> str:
    """The page without its tags."""
    page = re.sub(r"<(script|style).*?</\1>", "", response.content.decode(), flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def everything(response: Any) -> str:
    """All that a browser was sent, redirects and cookies included."""
    parts = [response.content.decode(), str(response.headers), str(response.client.cookies)]
    parts += [url for url, _ in getattr(response, "redirect_chain", [])]
    return unescape("\n".join(parts))


def act(browser: Client, action: str, *peers: Peer) -> Any:
    chosen = {"action": action, "_selected_action": [peer.pk for peer in peers]}
    return browser.post(reverse(LIST), chosen, follow=True)


def messages(response: Any) -> list[str]:
    return [str(message) for message in get_messages(response.wsgi_request)] or [
        str(message) for message in response.context["messages"]
    ]


# The list


def test_an_empty_list_says_what_to_do(browser: Client) -> None:
    page = text(browser.get(reverse(LIST)))
    assert "No peers yet." in page
    assert "manage.py runpubsub" in page
    assert "No worker is running" not in page


def test_a_filter_that_finds_none_leads_back(browser: Client) -> None:
    create()
    assert "No peers match. Show all 1" in text(browser.get(reverse(LIST), {"q": "zzz"}))


def test_the_list_tells_how_each_peer_is(browser: Client) -> None:
    connected, refused = create("connected"), create("refused", accept=False)
    create("off", enabled=False, forward=False)
    assert lease.acquire("worker", 60)
    now = time.time()
    store.write_statuses(
        {
            connected.pk: LinkStatus(
                LinkState.CONNECTED, since=now - 70, stats=LinkStats(dropped=1321)
            ),
            refused.pk: LinkStatus(LinkState.REFUSED, since=now, last_error="<not> you"),
        }
    )
    PeerStatus.objects.filter(peer=connected).update(lag=1204, oldest_at=now - 50)
    since = timezone.now() - timedelta(seconds=130)
    write_reports("one", {connected.pk: Report(1, "", 2300, 0, 0, since)})
    response = browser.get(reverse(LIST))
    page = re.sub(r"oldest 5\d s", "oldest 50 s", text(response))  # the page may take seconds
    assert (
        "connected connected, for 1 min 1 204 · oldest 50 s connected, for 2 min · 2 300 received 1 321 "
        f"→ messages are sent to it ← messages are accepted from it {URL} -"
    ) in page
    assert "refused refused, for" in page
    assert f"0 not accepted from 0 → messages are sent to it {URL} <not> you" in page
    assert f"off disabled - disabled - ← messages are accepted from it {URL} -" in page
    assert b"<not>" not in response.content
    assert "No worker is running" not in page


def test_without_a_worker_the_list_says_so_and_believes_nothing(browser: Client) -> None:
    peer = create()
    store.write_statuses({peer.pk: LinkStatus(LinkState.CONNECTED, since=time.time())})
    page = text(browser.get(reverse(LIST)))
    assert "No worker is running, so no messages are sent to peers" in page
    assert "stale: connected" in page


def test_the_list_says_who_is_behind_and_who_will_lose_messages(
    browser: Client, settings: Any
) -> None:
    settings.DWSPS = {**settings.DWSPS, "TAIL_MESSAGES": 1000, "TAIL_MAX_AGE": 3600}
    late, losing = create("late"), create("losing")
    assert lease.acquire("worker", 60)
    now = time.time()
    for peer in (late, losing):
        store.write_statuses({peer.pk: LinkStatus(LinkState.CONNECTED, since=now - 70)})
    PeerStatus.objects.filter(peer=late).update(lag=12, oldest_at=now - 300)
    PeerStatus.objects.filter(peer=losing).update(lag=34, oldest_at=now - 3000)
    response = browser.get(reverse(LIST))
    page = text(response)
    assert "connected, for 1 min, behind 12 · oldest 5 min not connected 0" in page
    assert "34 · oldest 50 min will lose messages in 9 min" in page
    assert response.content.count(b'data-severity="warning"') == 2
    assert response.content.count(b'data-severity="error"') == 2


def test_peers_are_found_by_name_address_and_state(browser: Client) -> None:
    for name, state in (("berlin", LinkState.CONNECTED), ("paris", LinkState.LOOP)):
        peer = create(name, url=f"ws://{name}.example/", enabled=name == "paris")
        PeerStatus.objects.create(peer=peer, state=state)
    for query in (
        {"q": "paris"},
        {"q": "paris.example"},
        {"state": "loop"},
        {"enabled__exact": "1"},
    ):
        page = text(browser.get(reverse(LIST), query))
        assert "1 peer" in page
        assert "ws://paris.example/" in page
        assert "ws://berlin.example/" not in page
    # Every column that offers it can be sorted by.
    for column in range(1, 9):
        assert browser.get(reverse(LIST), {"o": column}).status_code == 200


def test_the_number_of_queries_does_not_grow_with_the_list(
    browser: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    create("first")
    browser.get(reverse(LIST))
    with django_assert_num_queries(7):
        browser.get(reverse(LIST))
    for number in range(10):
        store.write_statuses({create(f"b{number}").pk: LinkStatus()})
    with django_assert_num_queries(7):
        browser.get(reverse(LIST))


# Adding and changing


def test_a_peer_is_added(browser: Client) -> None:
    response = browser.post(
        reverse(ADD), form(new_secret=SECRET, topics="news\nweather", accept=None), follow=True
    )
    peer = Peer.objects.get()
    assert (peer.name, peer.url, peer.secret, peer.topic_list) == (
        "b",
        URL,
        SECRET,
        ("news", "weather"),
    )
    assert (peer.enabled, peer.forward, peer.accept) == (True, True, False)
    assert SECRET not in everything(response)


def test_a_peer_without_a_secret_is_asked_for_one_unless_it_is_a_dwsps_server(
    browser: Client,
) -> None:
    response = browser.post(reverse(ADD), form())
    assert response.context["adminform"].form.errors.keys() == {"new_secret"}
    assert "a peer needs a secret" in text(response)
    assert not Peer.objects.exists()
    browser.post(reverse(ADD), form(dwsps="on"))
    assert (Peer.objects.get().dwsps, Peer.objects.get().secret) == (True, "")
    # A row that has none is red.
    browser.post(change_url(Peer.objects.get()), form(topics="news"))
    Peer.objects.update(dwsps=False)
    assert "it has no secret" in text(browser.get(reverse(LIST)))


def test_a_secret_goes_to_no_other_server_by_a_change_of_the_address() -> None:
    """A user who may change peers and is shown no secret gets none this way either."""
    peer = create()
    changing = visitor("view_peer", "change_peer")
    with socket.create_server((HOST, 0)) as listener:
        evil = f"ws://{HOST}:{listener.getsockname()[1]}/"
        response = changing.post(change_url(peer), form(url=evil))
        assert response.context["adminform"].form.errors.keys() == {"new_secret"}
        assert "the address has changed: set the secret again" in text(response)
        assert Peer.objects.get().url == URL
        # Nor past the form.
        Peer.objects.update(url=evil)
        [said] = messages(act(changing, "test_connection", peer))
        assert "its secret cannot be decrypted" in said
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    Peer.objects.update(url=URL)
    changing.post(change_url(peer), form(url="ws://c.example/", new_secret=OTHER))
    assert (Peer.objects.get().url, Peer.objects.get().secret) == ("ws://c.example/", OTHER)


def test_an_empty_secret_keeps_the_one_there_is(browser: Client) -> None:
    peer = create()
    browser.post(change_url(peer), form(topics="news"))
    peer.refresh_from_db()
    assert (peer.secret, peer.topics) == (SECRET, "news")


def test_a_form_that_changes_nothing_leaves_the_links_alone(browser: Client) -> None:
    peer = create()
    before = store.load_peers()
    browser.post(change_url(peer), form())
    assert store.load_peers() == before
    browser.post(change_url(peer), form(topics="news"))
    assert store.load_peers() != before


def test_a_new_secret_replaces_the_old_one(browser: Client) -> None:
    peer = create()
    browser.post(change_url(peer), form(new_secret=OTHER))
    peer.refresh_from_db()
    assert peer.secret == OTHER


@pytest.mark.parametrize("existing", [False, True])
def test_a_generated_secret_is_shown_once_and_kept_nowhere_on_the_way(
    browser: Client, existing: bool
) -> None:
    where = change_url(create()) if existing else reverse(ADD)
    response = browser.post(where, form(generate_secret="on"))
    peer = Peer.objects.get()
    validate_secret(peer.secret)
    assert peer.secret != SECRET
    assert response.status_code == 200
    assert "no-store" in response.headers["Cache-Control"]
    assert response.content.decode().count(peer.secret) == 1
    assert "manage.py peers add dwsps URL-of-this-server --secret-file -" in text(response)
    # As a message it would have been on its way in one of these.
    assert peer.secret not in str(response.headers) + str(browser.cookies)
    assert all(peer.secret not in str(row.get_decoded()) for row in Session.objects.all())

    for url in (reverse(LIST), change_url(peer), change_url(peer, "history")):
        assert peer.secret not in everything(browser.get(url))


def test_a_token_in_the_url_becomes_the_secret(browser: Client) -> None:
    response = browser.post(reverse(ADD), form(url=f"{URL}?token={SECRET}"), follow=True)
    peer = Peer.objects.get()
    assert (peer.url, peer.secret, peer.secret_in_url) == (URL, SECRET, True)
    assert SECRET not in everything(response)
    assert SECRET not in everything(browser.get(change_url(peer)))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"new_secret": "short"}, "at least 16 characters"),
        ({"url": f"{URL}?token=short"}, "at least 16 characters"),
        ({"url": "http://b.example/"}, "begins with ws://"),
        ({"topics": "news\na..b"}, "'a..b' has an empty level"),
        ({"name": "b b"}, "a name has 1 to 64"),
        ({"new_secret": SECRET, "generate_secret": "on"}, "one of these"),
        ({"new_secret": OTHER, "url": f"{URL}?token={SECRET}"}, "one of these"),
        ({"generate_secret": "on", "url": f"{URL}?token={SECRET}"}, "one of these"),
    ],
)
@pytest.mark.parametrize("existing", [False, True])
def test_what_cannot_be_is_said_and_not_saved(
    browser: Client, values: dict[str, str], problem: str, existing: bool
) -> None:
    where = change_url(create()) if existing else reverse(ADD)
    response = browser.post(where, form(**values))
    assert response.status_code == 200
    assert problem in text(response)
    assert SECRET not in everything(response)
    assert OTHER not in everything(response)
    assert [peer.secret for peer in Peer.objects.all()] == ([SECRET] if existing else [])


@pytest.mark.parametrize(
    "values",
    [
        {"new_secret": SECRET},
        {"url": f"{URL}?room=1&token={SECRET}"},
        {"url": f"http://b.example/?token={SECRET}"},
        {"url": f"{URL}?token={SECRET}&password=x"},
    ],
)
def test_a_form_with_an_error_asks_for_the_secret_once_more_and_does_not_repeat_it(
    browser: Client, values: dict[str, str]
) -> None:
    response = browser.post(reverse(ADD), form(name="b b", **values))
    assert "enter the secret again" in text(response)
    assert SECRET not in everything(response)
    shown = response.context["adminform"].form
    if "token" in values.get("url", ""):
        assert "token" not in shown["url"].value()
        assert shown["secret_in_url"].value() is True


def test_a_lost_secret_is_told_apart_from_none_and_can_be_set_anew(
    browser: Client, settings: Any
) -> None:
    lost = create("lost")
    settings.SECRET_KEY = "new" * 20
    browser.force_login(User.objects.get())
    assert "its secret cannot be decrypted" in text(browser.get(reverse(LIST)))
    assert "cannot be decrypted: SECRET_KEY has changed" in text(browser.get(change_url(lost)))
    none = create("none", secret="")
    assert "cannot be decrypted" not in text(browser.get(change_url(none)))

    browser.post(change_url(lost), form(name="lost", new_secret=OTHER))
    assert Peer.objects.get(name="lost").secret == OTHER


def test_the_form_tells_the_peers_health_and_takes_none_of_it(browser: Client) -> None:
    peer = create()
    assert lease.acquire("worker", 60)
    stats = LinkStats(
        forwarded=1001,
        acked=1002,
        resent=1005,
        dropped=1004,
        missed=1006,
        reconnects=1007,
    )
    status = LinkStatus(LinkState.BACKING_OFF, time.time() - 9, "nobody there", 0.0123, stats)
    store.write_statuses({peer.pk: status})
    PeerStatus.objects.update(lag=1003, oldest_at=time.time() - 190)
    for process, address in (("one", "192.0.2.1"), ("two", "192.0.2.2")):
        report = Report(1, address, 1000, 20, 3, timezone.now() - timedelta(seconds=185))
        write_reports(process, {peer.pk: report})
    page = text(browser.get(change_url(peer)))
    for words in (
        "Sending to it State: backing off, for",
        "Receiving from it State: connected, for 3 min",
        "Lag: 1 003 · oldest 3 min",
        "Received: 2 000",
        "Duplicates dropped: 40",
        "Refused: 6",
        "Last error: nobody there",
        "Round trip: 12.3 ms",
        "Sent: 1 001",
        "Acknowledged: 1 002",
        "Dropped: 1 004",
        "Sent again: 1 005",
        "Dropped as the log no longer had them: 1 006",
        "Reconnects: 1 007",
    ):
        assert words in page
    assert re.search(r"Address: 192.0.2.\d, 192.0.2.\d", page)
    browser.post(change_url(peer), form(forwarded="5", state="connected", lag="5", received="5"))
    assert PeerStatus.objects.get().lag == 1003
    assert PeerInbound.objects.filter(received=1000).count() == 2
    assert PeerStatus.objects.get().forwarded == 1001
    assert PeerStatus.objects.get().state == "backing_off"


def test_before_the_worker_told_of_it_the_form_is_there_all_the_same(browser: Client) -> None:
    assert "State: no worker is running" in text(browser.get(change_url(create())))
    assert "Receiving from it State: not connected" in text(
        browser.get(change_url(Peer.objects.get()))
    )
    assert "Receiving from it" not in text(browser.get(reverse(ADD)))


# The secret, once more


def test_no_page_of_a_peer_holds_its_secret(browser: Client) -> None:
    peer = create(url=f"{URL}?token={SECRET}")
    browser.post(change_url(peer), form(new_secret=OTHER, secret_in_url="on"))
    assert Peer.objects.get().secret == OTHER
    pages = [
        browser.get(reverse("admin:index")),
        browser.get(reverse(LIST)),
        browser.get(reverse(LIST), {"q": SECRET[:4]}),
        browser.get(change_url(peer)),
        browser.get(change_url(peer, "history")),
        browser.get(change_url(peer, "delete")),
        act(browser, "delete_selected", peer),
        act(browser, "disable", peer),
        act(browser, "enable", peer),
        act(browser, "test_connection", peer),
        browser.post(change_url(peer, "delete"), {"post": "yes"}, follow=True),
        browser.get(reverse("admin:index")),
    ]
    assert not Peer.objects.exists()
    for page in pages:
        assert page.status_code == 200
        assert SECRET not in everything(page)
        assert OTHER not in everything(page)
    history = " ".join(entry.change_message for entry in LogEntry.objects.all())
    assert "Secret" in history
    assert SECRET not in history
    assert OTHER not in history


def test_an_error_report_does_not_hold_it(browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As sent to ADMINS when something breaks."""
    monkeypatch.setattr(Peer, "save", lambda self, **kwargs: 1 / 0)
    browser.raise_request_exception = False
    response: Any = browser.post(
        reverse(ADD), form(new_secret=SECRET, url=f"{URL}?token={OTHER}", generate_secret=None)
    )
    assert response.status_code == 200  # two secrets: refused before it is saved
    response = browser.post(reverse(ADD), form(new_secret=SECRET))
    assert response.status_code == 500
    reported = SafeExceptionReporterFilter().get_post_parameters(response.wsgi_request)
    assert SECRET not in str(reported)
    assert reported["name"] == "b"


# Who may do what


def visitor(*permissions: str) -> Client:
    user = User.objects.create_user("visitor", is_staff=True)
    for permission in permissions:
        user.user_permissions.add(Permission.objects.get(codename=permission))
    client = Client()
    client.force_login(user)
    return client


def test_who_may_only_look_changes_nothing_and_sees_whether_there_is_a_secret() -> None:
    peer = create()
    looking = visitor("view_peer")
    response = looking.get(change_url(peer))
    page = text(response)
    assert "Secret: set" in page
    assert "State: " in page
    assert b'name="new_secret"' not in response.content
    assert b'name="generate_secret"' not in response.content
    assert SECRET not in everything(response)
    assert looking.post(change_url(peer), form(new_secret=OTHER)).status_code == 403
    for action in ("enable", "disable", "test_connection", "delete_selected"):
        assert f'value="{action}"'.encode() not in looking.get(reverse(LIST)).content
        act(looking, action, peer)
    assert (Peer.objects.get().secret, Peer.objects.get().enabled) == (SECRET, True)


def test_who_may_not_look_sees_nothing() -> None:
    peer = create()
    for url in (reverse(LIST), change_url(peer), reverse(ADD)):
        assert visitor_of_nothing().get(url).status_code == 403


def visitor_of_nothing() -> Client:
    User.objects.filter(username="visitor").delete()
    return visitor()


def test_who_may_add_can_set_a_secret_though_they_may_not_change_it_later() -> None:
    adding = visitor("add_peer", "view_peer")
    adding.post(reverse(ADD), form(new_secret=SECRET))
    assert Peer.objects.get().secret == SECRET


# Actions


def test_peers_are_disabled_and_enabled_with_a_word_in_their_history(browser: Client) -> None:
    on, off = create("on"), create("off", enabled=False)
    assert messages(act(browser, "disable", on, off)) == ["disabled: on"]
    assert {peer.enabled for peer in Peer.objects.all()} == {False}
    assert messages(act(browser, "enable", on, off)) == ["enabled: off, on"]
    assert not Peer.objects.filter(enabled=False).exists()
    assert messages(act(browser, "enable", on)) == ["enabled: no peer"]
    history = [(entry.object_repr, entry.change_message) for entry in LogEntry.objects.all()]
    assert sorted(history) == [
        ("off", "Enabled."),
        ("on", "Disabled."),
        ("on", "Enabled."),
    ]


def test_the_connection_test_says_of_each_peer_what_is_wrong(
    browser: Client, settings: Any
) -> None:
    lost = create("lost")
    settings.SECRET_KEY = "new" * 20
    browser.force_login(User.objects.get())
    nobody = create("nobody", url="ws://nobody.invalid/", enabled=False)
    closed = create("closed", url=f"ws://{HOST}:{free_port()}/")
    said = messages(act(browser, "test_connection", lost, nobody, closed))
    assert len(said) == 3
    assert said[0].startswith("'closed': cannot be reached")
    assert said[1].startswith("'lost': its secret cannot be decrypted")
    assert said[2] == "'nobody': the host 'nobody.invalid' is not known"
