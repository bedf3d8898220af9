"""Sessions of the worker: pages of what is published on this server."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.log import Log
from dwsps_channels.core.pacing import no_pause
from dwsps_channels.core.worker_session import (
    MAX_PAGE_BYTES,
    MAX_PAGE_MESSAGES,
    MAX_WAITING,
    WorkerSession,
)
from dwsps_channels.protocol.close_codes import CloseCode
from tests.core.recording import (
    STAMP,
    BufferingTransport,
    Client,
    Message,
    RecordingPolicy,
    World,
    is_error,
    peer,
    publish,
    subscribe,
)

WORKER = Identity("worker", role=Role.WORKER)


def feed(cursor: str = "log:0", **fields: Any) -> str:
    defaults = {"cursor": cursor, "at": 1.5, "messages": 256, "size": 2**20, "id": "feed"}
    return json.dumps({"type": "feed", **defaults, **fields})


@pytest.fixture
def worker(logged: World) -> Client:
    return logged.connect(identity=WORKER)


@pytest.fixture
def client(logged: World) -> Client:
    return logged.connect()


def fill(client: Client, count: int) -> None:
    for number in range(1, count + 1):
        client.send(publish("news", number))


def pages(answers: list[Message]) -> list[tuple[Any, list[Any], str]]:
    """Return the id, the messages and the cursor of each page."""
    found, messages = [], []
    for answer in answers:
        if answer["type"] == "entry":
            messages.append(answer["message"])
        else:
            assert (answer["type"], answer["action"]) == ("ack", "feed")
            found.append((answer["id"], messages, answer["cursor"]))
            messages = []
    assert messages == []
    return found


def ask(worker: Client, cursor: str = "log:0", **fields: Any) -> list[tuple[Any, list[Any], str]]:
    assert worker.session.receive(feed(cursor, **fields)) is None
    return pages(worker.transport.take_whole())


def test_a_request_that_does_not_wait_is_answered_at_once_in_place_of_one_that_does(
    logged: World, client: Client, worker: Client
) -> None:
    assert ask(worker, id=1) == []
    assert ask(worker, id=2) == []
    assert ask(worker, id=1, wait=False) == [(1, [], "log:0")]
    client.send(publish("news", "next"))
    assert pages(worker.transport.take_whole()) == [(2, ["next"], "log:1")]
    assert ask(worker, id=3, wait=False) == [(3, ["next"], "log:1")]


def test_a_page_has_what_was_published_and_where_it_ends(client: Client, worker: Client) -> None:
    client.send(publish("news.uk", {"a": 1}, timestamp=STAMP))
    worker.session.receive(feed())
    entry, ack = worker.transport.take_whole()
    assert entry.pop("at") > 0
    assert len(entry.pop("origin")) > 0
    assert entry == {
        "type": "entry",
        "offset": 1,
        "sequence": 1,
        "publisher": "one",
        "topic": "news.uk",
        "timestamp": STAMP,
        "message": {"a": 1},
    }
    assert ack.pop("at") > 0
    assert ack == {
        "type": "ack",
        "action": "feed",
        "id": "feed",
        "cursor": "log:1",
        "end": 1,
        "missed": 0,
        "restarted": False,
    }


def test_pages_follow_each_other(client: Client, worker: Client) -> None:
    fill(client, 5)
    assert ask(worker, messages=2) == [("feed", [1, 2], "log:2")]
    assert ask(worker, "log:2", messages=2) == [("feed", [3, 4], "log:4")]
    assert ask(worker, "log:4", messages=2) == [("feed", [5], "log:5")]


def test_a_request_at_the_end_is_answered_with_what_is_published_next(
    client: Client, worker: Client
) -> None:
    assert ask(worker) == []
    fill(client, 2)
    assert pages(worker.transport.take_whole()) == [("feed", [1], "log:1")]
    assert ask(worker, "log:1") == [("feed", [2], "log:2")]


def test_several_requests_may_wait(client: Client, worker: Client) -> None:
    for id in range(3):
        assert ask(worker, id=id) == []
    assert ask(worker, "log:7", id=3) == []  # another process has read more
    fill(client, 1)
    assert pages(worker.transport.take_whole()) == [(id, [1], "log:1") for id in range(3)]
    fill(client, 7)
    assert pages(worker.transport.take_whole()) == [(3, [7], "log:8")]


def test_what_other_processes_publish_is_in_it_and_what_peers_send_is_not(
    logged: World, worker: Client
) -> None:
    elsewhere = World("elsewhere")
    for number in range(2):
        elsewhere.connect(identity=Identity("one")).send(publish("news", number))
    published = elsewhere.broker.taken
    assert ask(worker) == []
    logged.node.receive(replace(published[0], publisher="north", from_peer_server=True), 1)
    assert worker.transport.take() == []
    logged.node.receive(published[1], 2)
    assert pages(worker.transport.take_whole()) == [("feed", [1], "log:2")]


def test_an_unknown_cursor_is_answered_at_once(client: Client, worker: Client) -> None:
    worker.session.receive(feed("another:5", at=2.0**40))
    [ack] = worker.transport.take_whole()
    assert (ack["cursor"], ack["restarted"]) == ("log:0", True)
    fill(client, 3)
    assert ask(worker, "another:5", at=0) == [("feed", [1, 2, 3], "log:3")]


def test_a_log_that_begins_again_answers_those_that_wait(logged: World, worker: Client) -> None:
    assert ask(worker) == []
    logged.node.begin(Log("other", offset=5))
    [ack] = worker.transport.take_whole()
    assert (ack["cursor"], ack["restarted"]) == ("other:5", True)


def test_what_is_missed_is_answered_at_once(logged: World, worker: Client) -> None:
    logged.node.begin(Log("log", offset=5, floor=5))
    worker.session.receive(feed("log:2"))
    [ack] = worker.transport.take_whole()
    assert (ack["missed"], ack["cursor"]) == (3, "log:5")


@pytest.mark.parametrize(
    "fields",
    [
        {"cursor": 5},
        {"cursor": "x" * 129},
        {"at": "now"},
        {"messages": -1},
        {"messages": "all"},
        {"size": 0},
        {"size": None},
        {"wait": 1},
        {"id": ""},
    ],
    ids=str,
)
def test_a_malformed_request_is_refused(worker: Client, fields: dict[str, Any]) -> None:
    [answer] = worker.send(feed(**fields))
    [field] = fields
    assert answer["reason"].startswith(f"'{field}' must be ")
    echoed = {} if field == "id" else {"id": "feed"}
    assert is_error(answer, "invalid_message", action="feed", **echoed)


def test_a_page_is_bounded_whatever_is_asked_for(client: Client, worker: Client) -> None:
    fill(client, MAX_PAGE_MESSAGES + 1)
    [(_, messages, _)] = ask(worker, messages=2**40, size=2**60)
    assert len(messages) == MAX_PAGE_MESSAGES


def test_the_bytes_of_a_page_are_bounded_whatever_is_asked_for(
    logged: World, worker: Client
) -> None:
    size = 4 * 1024 * 1024
    client = logged.connect("large", limits=Limits(message_bytes=2 * size))
    for _ in range(4):
        client.send(publish("news", "x" * size))
    [(_, messages, _)] = ask(worker, messages=2**40, size=2**60)
    assert 0 < len(messages) * size <= MAX_PAGE_BYTES


def test_requests_that_wait_are_bounded(worker: Client) -> None:
    for _ in range(MAX_WAITING):
        assert ask(worker) == []
    [answer] = worker.send(feed())
    assert is_error(answer, "unavailable", action="feed", id="feed")


def test_a_request_that_is_withdrawn_waits_no_more(client: Client, worker: Client) -> None:
    for id in range(2 * MAX_WAITING):
        assert ask(worker, id=id) == []
        assert ask(worker, id=id, messages=0, wait=False) == [(id, [], "log:0")]
    assert ask(worker, id="other") == []
    client.send(publish("news", "next"))
    assert pages(worker.transport.take_whole()) == [("other", ["next"], "log:1")]


async def test_a_worker_that_does_not_read_its_pages_gets_no_more(
    logged: World, client: Client
) -> None:
    fill(client, 10)
    transport = BufferingTransport()
    limits = Limits(buffered_bytes=1000)
    worker = logged.connect(identity=WORKER, limits=limits, transport=transport, pause=no_pause)
    assert worker.session.receive(feed()) is None
    waiting = worker.session.receive(feed())
    assert waiting is not None
    await waiting
    assert len(transport.frames) == 0
    assert transport.code == CloseCode.SLOW_CONSUMER


async def test_a_worker_that_reads_late_gets_its_next_page_then(
    logged: World, client: Client
) -> None:
    fill(client, 10)
    transport = BufferingTransport()
    taken: list[Message] = []

    async def pause(_: float) -> None:
        taken.extend(transport.take_whole())

    limits = Limits(buffered_bytes=1000)
    worker = logged.connect(identity=WORKER, limits=limits, transport=transport, pause=pause)
    worker.session.receive(feed(id=1))
    waiting = worker.session.receive(feed("log:5", id=2))
    assert waiting is not None
    await waiting
    assert pages(taken) == [(1, list(range(1, 11)), "log:10")]
    assert pages(transport.take_whole()) == [(2, [6, 7, 8, 9, 10], "log:10")]


def test_it_ends_with_the_session(client: Client, worker: Client) -> None:
    ask(worker)
    worker.session.closed()
    fill(client, 1)
    assert worker.transport.take() == []


def test_a_client_that_floods_takes_no_place_of_others(logged: World, worker: Client) -> None:
    logged.connect("honest").send(publish("orders", "important"))
    flood = logged.connect("flood")
    for _ in range(300):
        flood.send(publish("junk", "x" * 60_000))
    worker.session.receive(feed(messages=1000, size=2**30))
    *entries, ack = worker.transport.take_whole()
    assert [each["message"] for each in entries if each["topic"] == "orders"] == ["important"]
    assert len(entries) + ack["missed"] == 301
    assert ack["missed"] > 0


def test_the_worker_publishes_past_the_policy(logged: World) -> None:
    subscriber = logged.connect("reader")
    subscriber.send(subscribe("news"))
    policy = RecordingPolicy(lambda: False)
    worker = logged.connect(identity=WORKER, policy=policy)
    assert [each["type"] for each in worker.send(publish("news", 1))] == ["ack"]
    assert [each["message"] for each in subscriber.transport.take()] == [1]


@pytest.mark.parametrize(
    "identity",
    [
        Identity("client"),
        peer("link"),
        Identity("task", role=Role.PUBLISHER),
        Identity("page", role=Role.READER),
    ],
)
def test_nobody_but_the_worker_gets_it(logged: World, identity: Identity) -> None:
    [answer] = logged.connect(identity=identity).send(feed())
    assert is_error(answer, "invalid_message", action="feed", id="feed")


class TestEnd:
    """The server goes away: the worker has everything first."""

    def end(self, worker: Client) -> None:
        assert isinstance(worker.session, WorkerSession)
        worker.session.finish()

    def test_those_that_wait_are_answered(self, client: Client, worker: Client) -> None:
        fill(client, 2)
        for id in (1, 2):
            assert ask(worker, "log:2", id=id) == []
        self.end(worker)
        assert pages(worker.transport.take_whole()) == [(1, [], "log:2"), (2, [], "log:2")]
        assert worker.transport.code == CloseCode.GOING_AWAY

    def test_a_reader_that_is_busy_comes_back_for_the_rest(
        self, client: Client, worker: Client
    ) -> None:
        fill(client, 5)
        ask(worker, messages=2)
        self.end(worker)
        assert worker.transport.code is None
        assert ask(worker, "log:2", messages=2) == [("feed", [3, 4], "log:4")]
        assert ask(worker, "log:4", messages=2) == [("feed", [5], "log:5")]
        assert worker.transport.code is None
        assert ask(worker, "log:5", messages=2) == [("feed", [], "log:5")]
        assert worker.transport.code == CloseCode.GOING_AWAY

    def test_those_at_the_end_wait_for_the_others(self, client: Client, worker: Client) -> None:
        fill(client, 3)
        ask(worker, messages=2, id=1)
        assert ask(worker, "log:3", id=2) == []
        self.end(worker)
        assert ask(worker, "log:2", id=1) == [(1, [3], "log:3")]
        assert ask(worker, "log:3", id=1) == [(2, [], "log:3"), (1, [], "log:3")]
        assert worker.transport.code == CloseCode.GOING_AWAY

    def test_a_reader_that_has_left_is_not_waited_for(self, client: Client, worker: Client) -> None:
        fill(client, 2)
        ask(worker, messages=1)
        self.end(worker)
        assert worker.transport.code is None
        assert ask(worker, "log:1", messages=0, wait=False) == [("feed", [], "log:1")]
        assert worker.transport.code == CloseCode.GOING_AWAY

    def test_a_worker_that_reads_nothing_is_not_waited_for(self, worker: Client) -> None:
        self.end(worker)
        assert worker.transport.code == CloseCode.GOING_AWAY
