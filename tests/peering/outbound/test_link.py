"""A link, against servers that do what a test tells them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from dwsps_channels.client import Backoff
from dwsps_channels.core.page import Logged, Position
from dwsps_channels.core.timings import Timings
from dwsps_channels.peering.outbound import link as module
from dwsps_channels.peering.outbound import peer_connection, shared_source
from dwsps_channels.peering.outbound.claims import ServerClaims
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats
from dwsps_channels.peering.outbound.send_gate import SendGate
from dwsps_channels.peering.outbound.shared_source import SharedSource
from dwsps_channels.peering.outbound.window import IN_FLIGHT_MESSAGES, PAGE_MESSAGES, Window
from tests.clock import Clock
from tests.peering.far_server import SERVER_ID, FarServer, Frame
from tests.peering.outbound.log import ORIGIN, TIMESTAMP, LogInMemory, publication
from tests.processes import wait_until_async

SECRET = "the-secret-of-this-peer"
OWN_ID = "e" * 32
OTHER = PeerConfig(2, "other", "ws://other.example/", SECRET)


def frame_of(number: int, topic: str = "news") -> Frame:
    """The frame that a peer gets for ``publication(number, topic)``."""
    return {
        "type": "publish",
        "topic": topic,
        "message": number,
        "timestamp": TIMESTAMP,
        "fromPeerServer": True,
        "id": number,
        "origin": ORIGIN,
    }


class Running:
    """A link that runs, and all that it went through."""

    def __init__(
        self, config: PeerConfig, timings: Timings, claims: ServerClaims, gate: SendGate
    ) -> None:
        self.claims = claims
        self.states: list[LinkState] = []
        self.log = LogInMemory()
        self.window = Window(Position("log:0"))
        backoff = Backoff(0.01, 0.02, stable_after=30.0)
        self.link = Link(
            config,
            self.window,
            SharedSource(self.log),
            claims,
            gate=gate,
            on_change=self._on_change,
            timings=timings,
            backoff=backoff,
        )
        self.task = asyncio.create_task(self.link.run())

    def _on_change(self, link: Link) -> None:
        if self.states[-1:] != [link.state]:
            self.states.append(link.state)

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.log.append(publication(number), at=1.0)

    @property
    def has_read_all(self) -> bool:
        return self.window.read_to.cursor == f"{self.log.epoch}:{self.log.end}"

    async def has(self, state: LinkState) -> None:
        await wait_until_async(lambda: self.link.state is state, what=f"{state}")

    async def has_been(self, state: LinkState) -> None:
        await wait_until_async(lambda: state in self.states, what=f"{state}")

    async def is_done(self, acked: int) -> None:
        """Wait until so many are acknowledged, and nothing is left."""
        await wait_until_async(
            lambda: self.has_read_all and (self.window.acked, len(self.window)) == (acked, 0),
            what=f"{acked} acked",
        )

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


StartLink = Callable[..., Running]


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    yield
    await wait_until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOP_RETRY_INTERVAL", 0.02)


@pytest.fixture
async def start_link() -> AsyncIterator[StartLink]:
    started = []

    def start(
        url: str,
        *,
        secret: str = SECRET,
        timings: Timings = Timings(),  # noqa: B008  # frozen
        claims: ServerClaims | None = None,
        gate: SendGate | None = None,
        **row: object,
    ) -> Running:
        config = replace(PeerConfig(1, "far", url, secret), **row)  # type: ignore[arg-type]
        started.append(
            Running(config, timings, claims or ServerClaims(OWN_ID), gate or SendGate(60.0))
        )
        return started[-1]

    yield start
    for running in started:
        await running.end()


@pytest.fixture
async def far() -> AsyncIterator[FarServer]:
    server = await FarServer().start()
    yield server
    await server.stop()


@pytest.fixture
async def old() -> AsyncIterator[FarServer]:
    """A server of dwsps 1.0.1."""
    server = await FarServer(old=True).start()
    yield server
    await server.stop()


@pytest.fixture(params=["ours", "dwsps 1.0.1"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[FarServer]:
    server = await FarServer(old=request.param != "ours").start()
    yield server
    await server.stop()


def recorded_delays(backoff: Backoff, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Record the delays that ``backoff`` gives from now on."""
    delays: list[float | None] = []
    delay = backoff.delay

    def recorded(code: int | None = None) -> float | None:
        delays.append(delay(code))
        return delays[-1]

    monkeypatch.setattr(backoff, "delay", recorded)
    return delays


def has_acked(link: Running, count: int) -> bool:
    return link.window.acked >= count


def is_in(far: FarServer, times: int) -> bool:
    """Return whether a link has been connected this many times."""
    return len(far.requests) == times and bool(far.sessions)


class TestForwarding:
    async def test_what_is_put_arrives_in_order_as_it_was_made(
        self, either: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(either.url, dwsps=either.old)
        link.put(*range(1, 21))
        await link.is_done(20)
        link.put(*range(21, 41))
        await link.is_done(40)
        assert either.frames == [frame_of(number) for number in range(1, 41)]
        status = link.link.status()
        assert status.stats == LinkStats(forwarded=40, acked=40)
        assert status.position.cursor == "log:40"
        assert (status.lag, status.oldest_at) == (0, None)
        assert link.states == [LinkState.CONNECTING, LinkState.CONNECTED]

    async def test_the_secret_goes_in_the_header(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        await start_link(far.url).has(LinkState.CONNECTED)
        assert far.requests[0].headers["Authorization"] == f"Bearer {SECRET}"

    async def test_without_a_secret_nothing_goes_in_the_header(
        self, old: FarServer, start_link: StartLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Nor is a greeting waited for.
        monkeypatch.setattr(peer_connection, "HELLO_TIMEOUT", 3600.0)
        link = start_link(f"{old.url}?token=abc", secret="")
        await link.has(LinkState.CONNECTED)
        assert "Authorization" not in old.requests[0].headers
        assert old.requests[0].path == "/ws/?token=abc"

    @pytest.mark.parametrize(
        ("topics", "numbers"),
        [
            ((), [1, 2, 3, 4]),
            (("news",), [1, 2]),
            (("news.uk",), [2]),
            (("sport", "news.uk"), [2, 4]),
        ],
    )
    async def test_only_the_topics_of_the_row_go_out(
        self, topics: tuple[str, ...], numbers: list[int], far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url, topics=topics)
        for number, topic in enumerate(("news", "news.uk", "newsroom", "sport.uk"), 1):
            link.log.append(publication(number, topic), at=1.0)
        await link.is_done(len(numbers))
        assert far.numbers == numbers

    async def test_what_entered_before_it_was_enabled_is_not_for_it(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url, enabled_at=5.0)
        for number, at in ((1, 4.9), (2, 5.0), (3, 6.0)):
            link.log.append(publication(number), at=at)
        await link.is_done(2)
        assert far.numbers == [2, 3]

    async def test_no_more_than_the_window_is_unacknowledged(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        unanswered: list[Frame] = []
        most = 0

        def answer(frame: Frame) -> None:
            nonlocal most
            unanswered.append(frame)
            most = max(most, len(unanswered))

        far.answer = answer
        link = start_link(far.url)
        link.put(*range(1, IN_FLIGHT_MESSAGES * 3))
        await wait_until_async(lambda: len(unanswered) == IN_FLIGHT_MESSAGES)
        for acked in (
            1,
            2,
            100,
            IN_FLIGHT_MESSAGES,
            IN_FLIGHT_MESSAGES * 2,
            IN_FLIGHT_MESSAGES * 3 - 1,
        ):
            # So many more come as are acknowledged.
            while far.numbers[-1] - len(unanswered) < acked:
                await far.say(far.ack(unanswered.pop(0)))
            sent = min(acked + IN_FLIGHT_MESSAGES, IN_FLIGHT_MESSAGES * 3 - 1)
            await wait_until_async(partial(far.has_got, sent))
        await link.is_done(IN_FLIGHT_MESSAGES * 3 - 1)
        assert most == IN_FLIGHT_MESSAGES
        assert far.numbers == list(range(1, IN_FLIGHT_MESSAGES * 3))


class TestReading:
    async def test_a_peer_that_is_away_is_read_ahead_for_within_the_window_and_its_lag_is_known(
        self, start_link: StartLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LOOK_INTERVAL", 0.02)
        monkeypatch.setattr(shared_source, "LOOK_INTERVAL", 0.02)
        link = start_link(FarServer().url)
        link.put(*range(1, 1001))
        await wait_until_async(lambda: not link.window.room.is_set())
        assert link.link.status().lag == 1000
        assert PAGE_MESSAGES < len(link.window) <= 2 * PAGE_MESSAGES
        reads = len(link.log.reads)
        link.put(*range(1001, 2001))
        await wait_until_async(lambda: link.link.status().lag == 2000)
        assert len(link.window) <= 2 * PAGE_MESSAGES
        assert len(link.log.reads) > reads
        status = link.link.status()
        assert (status.position.cursor, status.oldest_at) == ("log:0", 1.0)

    async def test_what_it_missed_while_it_was_away_comes_from_the_log(
        self, start_link: StartLink
    ) -> None:
        far = FarServer()
        link = start_link(far.url)
        link.put(*range(1, 2001))
        await link.has_been(LinkState.BACKING_OFF)
        await far.start()
        await link.is_done(2000)
        assert far.numbers == list(range(1, 2001))
        await link.end()
        await far.stop()

    async def test_what_the_log_no_longer_has_is_counted(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        far.answer = lambda frame: None
        link = start_link(far.url)
        link.put(*range(1, 1001))
        await wait_until_async(lambda: link.window.in_flight == IN_FLIGHT_MESSAGES)
        link.log.trim(900)
        far.answer = far.ack
        far.cut()
        await wait_until_async(lambda: link.has_read_all and len(link.window) == 0)
        stats = link.link.stats()
        assert stats.acked + stats.missed == 1000
        assert stats.dropped == stats.missed > 0
        assert list(dict.fromkeys(far.numbers))[-100:] == list(range(901, 1001))

    async def test_what_a_log_that_began_again_repeats_is_not_sent_again(
        self, either: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(either.url, dwsps=either.old)
        link.put(1, 2, 3)
        await link.is_done(3)
        now = time.time()
        kept = [Logged(number, now, publication(number)) for number in (2, 3, 4)]
        link.log.begin_again("another", kept)
        await link.is_done(4)
        assert either.numbers == [1, 2, 3, 4]
        assert link.window.position.cursor == "another:4"

    async def test_messages_of_peers_are_passed_over(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url)
        for number in range(1, 400):
            link.log.append_foreign()
            link.log.append(publication(number), at=1.0)
            link.log.append_foreign()
        await link.is_done(399)
        assert far.numbers == list(range(1, 400))
        assert link.window.position.cursor == f"log:{link.log.end}"

    async def test_when_it_is_to_read_no_more_what_was_read_goes_out(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        far.answer = lambda frame: None
        link = start_link(far.url)
        link.put(1, 2)
        await wait_until_async(lambda: far.numbers == [1, 2])
        link.link.stop_reading()
        assert not link.link.is_finished
        link.put(3)
        for frame in list(far.frames):
            await far.say(far.ack(frame))
        await wait_until_async(lambda: link.link.is_finished)
        assert far.numbers == [1, 2]
        assert link.window.position.cursor == "log:2"

    async def test_a_defect_while_reading_is_logged_and_the_link_reads_on(
        self,
        far: FarServer,
        start_link: StartLink,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(module, "LOOK_INTERVAL", 0.01)
        link = start_link(far.url)
        with monkeypatch.context() as patch:
            patch.setattr(link.window, "advance", lambda page, counts: 1 / 0)
            await wait_until_async(lambda: "the link to peer 'far' cannot read on" in caplog.text)
        link.put(1)
        await link.is_done(1)


class TestTheGate:
    async def test_nothing_is_sent_until_it_opens(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        clock = Clock()
        gate = SendGate(6.0, clock)
        link = start_link(far.url, gate=gate)
        link.put(1)
        await link.is_done(1)
        clock.now += 7.0
        link.put(2)
        await wait_until_async(lambda: link.window.waiting == 1)
        reads = len(link.log.reads)
        await wait_until_async(lambda: len(link.log.reads) > reads + 2)
        assert (link.window.waiting, far.numbers) == (1, [1])
        gate.verify(gate.now())
        await link.is_done(2)
        assert far.numbers == [1, 2]


class TestBreaks:
    async def test_what_was_not_acknowledged_is_sent_again_under_the_same_name(
        self, either: FarServer, start_link: StartLink
    ) -> None:
        def answer(frame: Frame) -> Frame | None:
            return either.ack(frame) if frame["id"] <= 3 else None

        either.answer = answer
        link = start_link(either.url, dwsps=either.old)
        link.put(*range(1, 11))
        await wait_until_async(lambda: len(either.frames) == 10 and link.window.acked == 3)
        either.answer = either.ack
        either.cut()
        await link.has_been(LinkState.BACKING_OFF)
        link.put(11)
        await link.is_done(11)
        assert either.numbers == [*range(1, 11), *range(4, 12)]
        assert {frame["origin"] for frame in either.frames} == {ORIGIN}
        assert either.frames[3] == either.frames[10]
        assert (link.window.forwarded, link.window.resent) == (11, 7)

    async def test_a_server_that_is_down_at_the_start_gets_all_when_it_is_up(
        self, start_link: StartLink
    ) -> None:
        far = FarServer()
        link = start_link(far.url)
        link.put(1, 2, 3)
        await link.has_been(LinkState.BACKING_OFF)
        assert "cannot be reached" in link.link.status().last_error
        await far.start()
        await link.is_done(3)
        assert far.numbers == [1, 2, 3]
        assert link.link.status().last_error == ""
        await link.end()
        await far.stop()

    async def test_it_survives_a_server_that_comes_and_goes_under_load(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url)
        for round in range(10):
            link.put(*range(round * 50 + 1, round * 50 + 51))
            await wait_until_async(partial(has_acked, link, round * 50 + 1))
            await far.stop()
            await far.start()
        await link.is_done(500)
        seen = list(dict.fromkeys(far.numbers))
        assert seen == list(range(1, 501))

    @pytest.mark.parametrize(
        ("code", "state"),
        [
            (1000, LinkState.BACKING_OFF),
            (1001, LinkState.BACKING_OFF),
            (1011, LinkState.BACKING_OFF),
            (3000, LinkState.BACKING_OFF),
            (4001, LinkState.REFUSED),
            (4003, LinkState.REFUSED),
            (4099, LinkState.REFUSED),
            (4100, LinkState.BACKING_OFF),
            (4200, LinkState.BACKING_OFF),
        ],
    )
    async def test_it_comes_back_whatever_it_was_closed_with(
        self, code: int, state: LinkState, far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url)
        await link.has(LinkState.CONNECTED)
        errors: list[str] = []
        link.link._on_change = lambda changed: errors.append(
            f"{changed.state}: {changed.status().last_error}"
        )
        await far.close(code, "because")
        await wait_until_async(partial(is_in, far, 2))
        link.put(1)
        await link.is_done(1)
        assert errors[0] == f"{state}: closed with {code}: because"

    async def test_a_reason_that_only_the_error_before_the_close_has_is_shown(
        self, far: FarServer, start_link: StartLink, caplog: pytest.LogCaptureFixture
    ) -> None:
        link = start_link(far.url)
        await link.has(LinkState.CONNECTED)
        await far.say({"type": "error", "code": "forbidden", "reason": "the peer was disabled"})
        await far.close(4003)
        await link.has_been(LinkState.REFUSED)
        await wait_until_async(lambda: "closed with 4003: the peer was disabled" in caplog.text)

    async def test_who_sends_it_away_again_and_again_is_not_hammered(
        self, far: FarServer, start_link: StartLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = start_link(far.url)
        delays = recorded_delays(link.link._backoff, monkeypatch)
        for connections in range(1, 5):
            await wait_until_async(partial(is_in, far, connections))
            await far.close(4200, "going away")
        await wait_until_async(lambda: len(delays) == 4)
        assert delays[0] == 0.0
        assert all(delays[1:])

    async def test_a_link_that_breaks_often_is_not_slowed_as_long_as_it_brings_messages_across(
        self, far: FarServer, start_link: StartLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = start_link(far.url)
        backoff = link.link._backoff = Backoff(
            0.001, 3600.0, stable_after=3600.0, uniform=lambda: 1.0
        )
        delays = recorded_delays(backoff, monkeypatch)
        for number in range(1, 31):
            link.put(number)
            await link.is_done(number)
            far.cut()
            await wait_until_async(lambda: len(delays) == number)  # noqa: B023
        assert set(delays) == {0.001}

    async def test_a_silent_server_is_noticed(self, far: FarServer, start_link: StartLink) -> None:
        far.answer = lambda frame: None
        timings = Timings(LINK_HEARTBEAT_INTERVAL=0.05, LINK_HEARTBEAT_TIMEOUT=0.2)
        link = start_link(far.url, timings=timings)
        link.put(1)
        # On a busy machine the link may give up a connection on which nothing was wrong.
        await wait_until_async(lambda: far.numbers and far.sessions)
        # A proxy swallows all from here on: nothing is read, and nothing is closed.
        session = far.sessions[-1]
        session.transport.pause_reading()
        far.answer = far.ack
        await link.is_done(1)
        assert len(far.numbers) > 1
        assert set(far.numbers) == {1}
        assert LinkState.BACKING_OFF in link.states
        session.transport.abort()

    async def test_a_server_that_answers_heartbeats_and_no_message_is_connected_to_anew(
        self,
        far: FarServer,
        start_link: StartLink,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        far.answer = lambda frame: None
        link = start_link(far.url, timings=Timings(LINK_ANSWER_TIMEOUT=0.2))
        link.put(1)
        await wait_until_async(lambda: "no message was answered" in caplog.text)
        far.answer = far.ack
        await link.is_done(1)

    async def test_what_is_no_answer_gives_it_no_more_time(
        self,
        far: FarServer,
        start_link: StartLink,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        far.answer = lambda frame: None
        link = start_link(far.url, timings=Timings(LINK_ANSWER_TIMEOUT=0.3))
        await link.has(LinkState.CONNECTED)
        link.put(1)

        async def noticed() -> bool:
            await far.say({"type": "publish", "topic": "a", "context": "a", "message": 1})
            await far.say(far.greeting or {})
            return "no message was answered" in caplog.text

        await wait_until_async(noticed)

    async def test_each_message_has_its_time_from_when_it_is_sent(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url)
        await link.has(LinkState.CONNECTED)
        assert link.link._connection is not None
        deadline = link.link._connection._deadline
        assert deadline is not None
        assert deadline.when() is None  # nothing is awaited
        far.answer = lambda frame: None
        now = asyncio.get_running_loop().time
        link.put(1, 2)
        await wait_until_async(lambda: far.has_got(2))
        due = deadline.when()
        assert due is not None
        assert due <= now() + Timings().LINK_ANSWER_TIMEOUT
        await far.say(far.ack(far.frames[0]))
        await wait_until_async(lambda: link.window.acked == 1)
        later = deadline.when()
        assert later is not None
        assert later > due
        await far.say(far.ack(far.frames[1]))
        await link.is_done(2)
        assert deadline.when() is None

    async def test_the_round_trip_is_measured(self, far: FarServer, start_link: StartLink) -> None:
        link = start_link(far.url, timings=Timings(LINK_HEARTBEAT_INTERVAL=0.01))
        await link.has(LinkState.CONNECTED)
        await wait_until_async(lambda: link.link.status().round_trip)

    async def test_an_outage_makes_one_line_in_the_log(
        self, start_link: StartLink, caplog: pytest.LogCaptureFixture
    ) -> None:
        link = start_link(FarServer().url)
        tried = 0

        def count(changed: Link) -> None:
            nonlocal tried
            tried += changed.state is LinkState.CONNECTING

        link.link._on_change = count
        await wait_until_async(lambda: tried > 5)
        assert len([r for r in caplog.records if r.levelno >= logging.INFO]) == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "state"),
        [
            (HTTPStatus.FORBIDDEN, LinkState.REFUSED),
            (HTTPStatus.UNAUTHORIZED, LinkState.REFUSED),
            (HTTPStatus.NOT_FOUND, LinkState.REFUSED),
            (HTTPStatus.FOUND, LinkState.REFUSED),
            (HTTPStatus.TOO_MANY_REQUESTS, LinkState.BACKING_OFF),
            (HTTPStatus.BAD_GATEWAY, LinkState.BACKING_OFF),
            (HTTPStatus.SERVICE_UNAVAILABLE, LinkState.BACKING_OFF),
        ],
    )
    async def test_a_handshake_that_is_refused_is_tried_again(
        self, status: HTTPStatus, state: LinkState, far: FarServer, start_link: StartLink
    ) -> None:
        far.status = status
        link = start_link(far.url)
        link.put(1)
        await link.has_been(state)
        assert str(status.value) in link.link.status().last_error
        far.status = None
        await link.is_done(1)
        assert {LinkState.REFUSED, LinkState.BACKING_OFF} & set(link.states) == {state}

    async def test_a_peer_that_does_not_greet_is_red_and_loses_no_message(
        self, far: FarServer, start_link: StartLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It takes us for an ordinary client, or it is a dwsps 1.0.1 server and its row does not say so."""
        monkeypatch.setattr(peer_connection, "HELLO_TIMEOUT", 0.1)
        greeting, far.greeting = far.greeting, None
        link = start_link(far.url)
        link.put(1, 2)
        await link.has_been(LinkState.REFUSED)
        assert "as an ordinary client" in link.link.status().last_error
        assert "dwsps 1.0.1" in link.link.status().last_error
        assert LinkState.CONNECTED not in link.states
        assert far.frames == []
        far.greeting = greeting
        await link.is_done(2)
        assert far.numbers == [1, 2]

    @pytest.mark.parametrize("row", [{"dwsps": True}, {"secret": ""}])
    async def test_a_peer_that_takes_us_for_an_ordinary_client_is_red_and_loses_no_message(
        self, row: dict[str, Any], far: FarServer, start_link: StartLink
    ) -> None:
        """Also where no greeting is to be expected: for a secret in the URL, or from what seems dwsps 1.0.1."""
        far.answer = lambda frame: error(frame, "forbidden")
        link = start_link(far.url, **row)
        errors: list[str] = []
        link.link._on_change = lambda changed: errors.append(
            f"{changed.state}: {changed.status().last_error}"
        )
        link.put(1, 2)
        await wait_until_async(lambda: any(told.startswith("refused") for told in errors))
        assert any("as an ordinary client" in told for told in errors)
        assert link.window.dropped == 0
        far.answer = far.ack
        await link.is_done(2)

    async def test_why_it_is_refused_is_found_out_once_a_minute(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        far.status = HTTPStatus.FORBIDDEN
        link = start_link(far.url)
        await wait_until_async(lambda: len(far.requests) >= 6)
        assert "without a secret as well: is the path right?" in link.link.status().last_error
        without = [r for r in far.requests if "Authorization" not in r.headers]
        assert without == far.requests[1:2]

    async def test_a_reason_that_is_old_is_found_out_again(
        self, far: FarServer, start_link: StartLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "REASON_INTERVAL", 0.0)
        far.status = HTTPStatus.FORBIDDEN
        start_link(far.url)
        await wait_until_async(
            lambda: len([r for r in far.requests if "Authorization" not in r.headers]) >= 2
        )

    async def test_an_error_that_may_pass_has_all_sent_again_in_order(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        def answer(frame: Frame) -> Frame | None:
            if frame["id"] != 3 or len(far.sessions) != 1 or len(far.requests) > 1:
                return far.ack(frame)
            return error(frame, "unavailable", retryable=True)

        far.answer = answer
        link = start_link(far.url)
        link.put(1, 2, 3, 4, 5)
        await link.is_done(5)
        second = far.numbers[far.numbers.index(3) :]
        assert second[second.index(3, 1) :] == [3, 4, 5]
        assert link.window.dropped == 0
        assert link.window.position.cursor == "log:5"

    async def test_an_error_for_good_is_counted_and_the_rest_goes_on(
        self, far: FarServer, start_link: StartLink, caplog: pytest.LogCaptureFixture
    ) -> None:
        far.answer = lambda frame: (
            far.ack(frame) if frame["id"] % 2 else error(frame, "message_too_large")
        )
        link = start_link(far.url)
        link.put(*range(1, 11))
        await link.is_done(5)
        assert (link.window.acked, link.window.dropped) == (5, 5)
        assert link.window.position.cursor == "log:10"
        assert len(far.requests) == 1
        # One who refuses everything is to fill no log.
        [refusal] = [r.getMessage() for r in caplog.records if "for good" in r.getMessage()]
        assert "refused a message to 'news' for good: said the test" in refusal

    @pytest.mark.parametrize(
        "code", ["invalid_json", "invalid_message", "message_too_deep", "message_too_large"]
    )
    async def test_an_error_about_what_could_not_be_read_stands_for_the_ack(
        self, code: str, far: FarServer, start_link: StartLink
    ) -> None:
        """Else the message would be sent for ever: nested too deeply for that server, say."""
        unreadable = {"type": "error", "code": code, "reason": "?", "retryable": False}
        far.answer = lambda frame: unreadable if frame["id"] == 2 else far.ack(frame)
        link = start_link(far.url)
        link.put(1, 2, 3)
        await link.is_done(2)
        assert (link.window.acked, link.window.dropped, len(far.requests)) == (2, 1, 1)

    async def test_a_message_that_the_server_closes_at_is_dropped_and_the_rest_goes_on(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        """Some servers end a connection at a frame above their own limit, with 1009."""
        closing: set[asyncio.Task[None]] = set()
        # The sessions themselves: the id of one that is gone may be that of the next.
        closed: list[ServerConnection] = []

        def answer(frame: Frame) -> Frame | None:
            if far.sessions[0] in closed:
                return None
            if len(str(frame["message"])) < 500:
                return far.ack(frame)
            closed.append(far.sessions[0])
            closing.add(asyncio.create_task(far.close(1009)))
            return None

        far.answer = answer
        link = start_link(far.url)
        for number in range(1, 11):
            size = 500 + number if number in (4, 7) else 10
            link.log.append(publication(number, message="x" * size), at=1.0)
        await link.is_done(8)
        assert link.window.dropped == 2
        assert link.window.position.cursor == "log:10"
        await asyncio.wait(closing)

    async def test_a_frame_that_is_too_large_for_the_link_costs_none_of_its_messages(
        self, far: FarServer, start_link: StartLink, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The link closes with 1009 then: its own code is not taken for the peer's."""
        far.answer = lambda frame: "x" * (module.MAX_REPLY_BYTES + 1)
        link = start_link(far.url)
        link.put(1, 2)
        problem = f"sent a frame of more than {module.MAX_REPLY_BYTES} bytes"
        await wait_until_async(lambda: problem in caplog.text)
        far.answer = far.ack
        await link.is_done(2)
        assert link.window.dropped == 0


def error(frame: Frame, code: str, *, retryable: bool = False) -> Frame:
    return {
        "type": "error",
        "code": code,
        "reason": "said the test",
        "retryable": retryable,
        "action": "publish",
        "topic": frame["topic"],
        "id": frame["id"],
    }


class TestNonsense:
    async def test_a_peer_that_sends_what_nobody_asked_for_is_left(
        self, far: FarServer, start_link: StartLink, caplog: pytest.LogCaptureFixture
    ) -> None:
        link = start_link(far.url)
        await link.has(LinkState.CONNECTED)
        delivery: Frame = {"type": "publish", "topic": "a", "context": "a", "message": 1}

        async def left() -> bool:
            for _ in range(50):
                await far.say(delivery)
            return "sends too many unsolicited frames" in caplog.text

        await wait_until_async(left, 20)
        link.put(1)
        await link.is_done(1)

    @pytest.mark.parametrize(
        "nonsense",
        [
            "no json",
            "null",
            "[]",
            '"ack"',
            b"\xff\xfe",
            "[" * 100_000,
            '{"type":5}',
            '{"type":"ack","action":"publish","id":999}',
            '{"type":"ack","action":"publish","id":null}',
            '{"type":"ack","action":"publish","id":"1"}',
        ],
    )
    async def test_the_connection_is_made_anew_and_nothing_is_lost(
        self, nonsense: str | bytes, far: FarServer, start_link: StartLink
    ) -> None:
        far.answer = lambda frame: nonsense if len(far.requests) == 1 else far.ack(frame)
        link = start_link(far.url)
        link.put(1, 2, 3)
        await link.is_done(3)
        assert LinkState.BACKING_OFF in link.states
        assert list(dict.fromkeys(far.numbers)) == [1, 2, 3]

    async def test_acks_out_of_order_are_not_believed(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        first: list[Frame] = []

        def answer(frame: Frame) -> Frame | None:
            if len(far.requests) > 1:
                return far.ack(frame)
            first.append(frame)
            return far.ack(frame) if len(first) == 2 else None

        far.answer = answer
        link = start_link(far.url)
        link.put(1, 2)
        await link.is_done(2)
        assert far.numbers == [1, 2, 1, 2]

    async def test_an_ack_of_nothing_is_not_believed(
        self, old: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(old.url, dwsps=True)
        await link.has(LinkState.CONNECTED)
        await old.say({"type": "ack", "action": "publish", "topic": "news"})
        await link.has_been(LinkState.BACKING_OFF)
        link.put(1)
        await link.is_done(1)

    async def test_what_is_no_answer_is_passed_over(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url)
        await link.has(LinkState.CONNECTED)
        await far.say({"type": "publish", "topic": "news", "message": 1, "context": "news"})
        await far.say({"type": "ack", "action": "subscribe", "topic": "news"})
        await far.say({"type": "of a later protocol"})
        link.put(1)
        await link.is_done(1)
        assert link.states == [LinkState.CONNECTING, LinkState.CONNECTED]

    @pytest.mark.parametrize("url", ["", "ftp://example.org", "ws://", "ws://user:pw@example.org/"])
    async def test_a_row_with_a_url_that_is_none_leaves_the_link_alive(
        self, url: str, start_link: StartLink
    ) -> None:
        """Rows change past their validation, too."""
        link = start_link(url)
        await link.has_been(LinkState.BACKING_OFF)
        assert "the server's URL" in link.link.status().last_error
        assert not link.task.done()

    async def test_a_defect_is_logged_and_the_link_goes_on(
        self,
        far: FarServer,
        start_link: StartLink,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        link = start_link(far.url)
        acknowledge = link.window.acknowledge
        monkeypatch.setattr(link.window, "acknowledge", lambda: 1 / 0)
        link.put(1)
        await wait_until_async(lambda: "the link to peer 'far' failed" in caplog.text)
        monkeypatch.setattr(link.window, "acknowledge", acknowledge)
        await link.is_done(1)


class TestLoops:
    async def test_where_it_may_not_lead_nothing_is_sent_nor_kept(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url, claims=ServerClaims(SERVER_ID))
        link.put(1, 2)
        await link.has_been(LinkState.LOOP)
        assert link.link.status().last_error == "leads to this server itself"
        await wait_until_async(lambda: link.has_read_all and len(link.window) == 0)
        link.put(3)
        # While it looks whether it still is one, it may have read that.
        await wait_until_async(lambda: link.window.position.cursor == "log:3")
        assert far.frames == []
        assert LinkState.CONNECTED not in link.states

    async def test_it_looks_again_and_then_starts_with_what_comes(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        claims = ServerClaims(OWN_ID)
        assert claims.claim(OTHER, SERVER_ID) is None
        link = start_link(far.url, claims=claims)
        link.put(1)
        await link.has(LinkState.LOOP)
        assert link.link.status().last_error == "leads to the same server as 'other'"
        await wait_until_async(lambda: link.has_read_all and len(link.window) == 0)
        claims.release(OTHER)
        await link.has(LinkState.CONNECTED)
        link.put(2)
        await link.is_done(1)
        assert far.numbers == [2]

    async def test_a_hello_that_was_long_on_its_way_counts(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        hello, far.greeting = far.greeting, None
        link = start_link(far.url, dwsps=True, claims=ServerClaims(SERVER_ID))
        await link.has(LinkState.CONNECTED)
        assert hello is not None
        await far.say(hello)
        await link.has_been(LinkState.LOOP)

    async def test_a_hello_that_names_nobody_claims_nothing(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        far.greeting = {"type": "hello"}
        link = start_link(far.url)
        await link.has(LinkState.CONNECTED)
        assert link.claims.claim(OTHER, SERVER_ID) is None

    async def test_a_claim_outlives_the_connection_but_not_the_link(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        link = start_link(far.url)
        await link.has(LinkState.CONNECTED)
        far.cut()
        await link.has_been(LinkState.BACKING_OFF)
        assert link.claims.claim(OTHER, SERVER_ID) == "leads to the same server as 'far'"
        await link.has(LinkState.CONNECTED)
        assert link.link.stats().reconnects == 1
        assert link.claims.claim(OTHER, SERVER_ID) == "leads to the same server as 'far'"
        await link.end()
        assert link.claims.claim(OTHER, SERVER_ID) is None


class TestItsEnd:
    async def test_it_says_goodbye_and_gives_back_what_was_not_acknowledged(
        self, far: FarServer, start_link: StartLink
    ) -> None:
        far.answer = lambda frame: None
        link = start_link(far.url)
        link.put(1, 2, 3)
        await wait_until_async(lambda: far.numbers == [1, 2, 3])
        [session] = far.sessions
        await link.end()
        assert session.close_code == 1000
        assert link.window.awaited is None
        assert len(link.window) == 3
        assert link.states == [LinkState.CONNECTING, LinkState.CONNECTED, LinkState.DISABLED]

    async def test_it_ends_at_any_time(self, start_link: StartLink, far: FarServer) -> None:
        for turns in range(30):
            link = start_link(far.url)
            link.put(1)
            for _ in range(turns):
                await asyncio.sleep(0)
            await link.end()
            assert link.task.cancelled()
            assert link.window.awaited is None


async def _lost(far: FarServer, link: Running) -> None:
    far.cut()
    await link.has_been(LinkState.BACKING_OFF)


async def _refused(far: FarServer, link: Running) -> None:
    far.status = HTTPStatus.FORBIDDEN
    await _lost(far, link)
    await link.has_been(LinkState.REFUSED)


async def _redirected(far: FarServer, link: Running) -> None:
    far.status = HTTPStatus.FOUND
    await _lost(far, link)
    await link.has_been(LinkState.REFUSED)


async def _confused(far: FarServer, link: Running) -> None:
    await far.say("nonsense")
    await link.has_been(LinkState.BACKING_OFF)


@pytest.mark.parametrize("happens", [_lost, _refused, _redirected, _confused])
@pytest.mark.parametrize("in_url", [False, True])
async def test_the_secret_is_shown_nowhere(
    happens: Callable[[FarServer, Running], Awaitable[None]],
    in_url: bool,
    far: FarServer,
    start_link: StartLink,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="")
    for name in ("websockets", "asyncio", "dwsps_channels"):
        caplog.set_level(logging.DEBUG, logger=name)
    url, secret = (f"{far.url}?token={SECRET}", "") if in_url else (far.url, SECRET)
    link = start_link(url, secret=secret)
    told: list[str] = []

    def tell(changed: Link) -> None:
        told.append(repr(changed.status()))
        link._on_change(changed)

    link.link._on_change = tell
    await link.has(LinkState.CONNECTED)
    link.put(1)
    await link.is_done(1)
    await happens(far, link)
    await link.end()
    assert len(told) > 2
    assert caplog.records
    for text in (caplog.text, *told, repr(link.link), repr(link.link.config), repr(link.window)):
        assert SECRET not in text


EVIL = "\x1b[2J\x9b31m\x85\nFAKE \u202eLINE\u2028\x00" + "x" * 10_000


async def test_nothing_a_peer_says_gets_into_the_log_as_it_is(
    far: FarServer, start_link: StartLink, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(frame: Frame) -> Frame:
        return far.ack(frame) | {"type": "error", "code": EVIL, "reason": EVIL}

    far.answer = refuses
    running = start_link(far.url)
    running.log.append(publication(1, "news\u202e"), at=1.0)
    await running.has(LinkState.CONNECTED)
    await wait_until_async(lambda: running.window.dropped == 1)
    await far.say({"type": "error", "code": "forbidden", "reason": EVIL})
    await far.close(4003, EVIL[:40])
    await running.has_been(LinkState.REFUSED)
    for text in (
        running.link.status().last_error,
        *(record.getMessage() for record in caplog.records),
    ):
        assert text.isprintable(), repr(text)
        assert len(text) < 1_500
    assert "for good" in caplog.text
