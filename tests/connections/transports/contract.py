"""The contract of a ``Transport``. Not collected by itself: see ``TransportContract``."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

import pytest

from dwsps_channels.connections.transports import backpressure, closing
from dwsps_channels.connections.transports.counters import counters
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.frames import Frame, Frames

TIMEOUT = 30.0

FINAL_FRAME = Frame(b'{"type":"error","code":"unavailable"}')


class Line(ABC):
    """A transport, and the client at the other end of it, who reads or does not.

    ``limit`` is how many bytes may wait in the transport for a client that does not read; a small one, some KiB.
    """

    transport: Transport
    limit: int

    def __init__(self) -> None:
        self.slow_consumer_calls = 0
        """The number of times that the transport found the client too slow."""
        self.backpressure_calls: list[bool] = []
        """True if publishers have to wait for the client: an entry each time the transport tells it."""

    @abstractmethod
    def stop_reading(self) -> None:
        """From now on the client takes nothing, and buffers on its side are as good as none."""

    @abstractmethod
    def read_on(self) -> None:
        """Undo ``stop_reading``."""

    @abstractmethod
    def vanish(self) -> None:
        """The client is gone without a word: what is sent from now on fails."""

    @property
    @abstractmethod
    def received(self) -> list[str]:
        """The messages that the client has read so far."""

    @property
    @abstractmethod
    def close_code(self) -> int | None:
        """Return the close code, once the client has read that far; ``None``: the connection is open."""

    @property
    @abstractmethod
    def is_cut_off(self) -> bool:
        """Return whether the connection was ended without waiting for the client."""

    async def has_received(self, *messages: str) -> None:
        """Wait until the client has read exactly these."""
        await until(lambda: len(self.received) >= len(messages))
        assert self.received == list(messages)

    async def is_closed(self) -> int:
        """Wait until the connection is closed; returns the code."""
        await until(lambda: self.close_code is not None)
        assert self.close_code is not None
        return self.close_code

    async def is_stuck(self) -> None:
        """Have the client stop reading, and the transport notice it."""
        self.stop_reading()
        self.transport.send(frame("stuck"))
        await turns()


class TransportContract(ABC):
    """The shared suite: derive from it in a test module, and give ``line``."""

    @pytest.fixture
    @abstractmethod
    def line(self) -> object:
        """A ``Line`` that is connected, with a client that reads; taken down after the test."""

    async def test_frames_arrive_in_order(self, line: Line) -> None:
        for number in range(500):
            line.transport.send(frame(number))
            if number % 100 == 0:
                await turns()
        await line.has_received(*(text(number) for number in range(500)))

    async def test_many_at_once_arrive_in_order_with_the_others(self, line: Line) -> None:
        count = line.limit // len(frame(0))
        line.transport.send_all(Frames())
        line.transport.send_all(Frames([frame(0), frame(1)]))
        line.transport.send(frame(2))
        line.transport.send_all(Frames([frame(number) for number in range(3, count)]))
        line.transport.send(frame(count))
        await line.has_received(*(text(number) for number in range(count + 1)))

    async def test_many_at_once_wait_for_a_client_that_does_not_read(self, line: Line) -> None:
        await line.is_stuck()
        line.transport.send_all(Frames([frame(number) for number in range(5)]))
        await turns()
        assert line.received == []
        assert line.transport.buffered_bytes >= 4 * len(frame(0))
        line.read_on()
        await line.has_received(text("stuck"), *(text(number) for number in range(5)))

    async def test_a_frame_arrives_as_its_text(self, line: Line) -> None:
        line.transport.send(Frame('{"a":"ü☃😀\\u0000"}'.encode()))
        await line.has_received('{"a":"ü☃😀\\u0000"}')

    async def test_frames_wait_for_a_client_that_does_not_read(self, line: Line) -> None:
        await line.is_stuck()
        for number in range(5):
            line.transport.send(frame(number))
        await turns()
        assert line.received == []
        # Their text, or the whole of their websocket frames; one may be on its way.
        size = len(frame(0))
        assert 4 * size <= line.transport.buffered_bytes <= 6 * (size + 4)
        line.read_on()
        await line.has_received(text("stuck"), *(text(number) for number in range(5)))
        assert line.transport.buffered_bytes == 0
        assert line.slow_consumer_calls == 0

    async def test_close_sends_what_waits_then_the_final_frame_then_the_code(
        self, line: Line
    ) -> None:
        line.transport.send(frame(1))
        line.transport.send(frame(2))
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        assert await line.is_closed() == 4200
        assert line.received == [text(1), text(2), FINAL_FRAME.text]

    async def test_close_waits_for_a_slow_client(self, line: Line) -> None:
        await line.is_stuck()
        line.transport.send(frame(1))
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        await turns()
        assert line.close_code is None
        line.read_on()
        assert await line.is_closed() == 4200
        assert line.received == [text("stuck"), text(1), FINAL_FRAME.text]

    async def test_close_may_discard_what_waits(self, line: Line) -> None:
        await line.is_stuck()
        for number in range(5):
            line.transport.send(frame(number))
        line.transport.close(CloseCode.SLOW_CONSUMER, FINAL_FRAME, discard=True)
        line.read_on()
        assert await line.is_closed() == 4100
        # The one that was on its way when the client stopped may have left.
        assert line.received in ([FINAL_FRAME.text], [text("stuck"), FINAL_FRAME.text])

    async def test_nothing_is_sent_after_close(self, line: Line) -> None:
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        line.transport.send(frame("late"))
        line.transport.send_all(Frames([frame("late"), frame("too")]))
        assert await line.is_closed() == 4200
        line.transport.send(frame("later"))
        await turns()
        assert line.received == [FINAL_FRAME.text]

    async def test_a_second_close_changes_nothing(self, line: Line) -> None:
        line.transport.send(frame(1))
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        line.transport.close(CloseCode.FORBIDDEN, frame("again"), discard=True)
        assert await line.is_closed() == 4200
        line.transport.close(CloseCode.FORBIDDEN, frame("again"))
        await turns()
        assert line.received == [text(1), FINAL_FRAME.text]

    @pytest.mark.parametrize("discard", [False, True])
    async def test_a_client_that_never_reads_is_cut_off_after_close(
        self, line: Line, monkeypatch: pytest.MonkeyPatch, discard: bool
    ) -> None:
        monkeypatch.setattr(closing, "SLOW_CLOSE_TIMEOUT" if discard else "CLOSE_TIMEOUT", 0.01)
        await line.is_stuck()
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME, discard=discard)
        await until(lambda: line.is_cut_off)

    async def test_more_than_the_limit_for_a_stuck_client_is_told_once(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backpressure, "PROGRESS_INTERVAL", 0.001)
        await line.is_stuck()
        counted = counters.slow_consumers
        size = len(frame(0))
        for number in range(3 * line.limit // size):
            line.transport.send(frame(number))
            # Whoever sends is in the middle of something: it is told later.
            assert line.slow_consumer_calls == 0
        await until(lambda: line.slow_consumer_calls > 0)
        line.transport.send(frame("more"))
        await turns()
        assert line.slow_consumer_calls == 1
        assert counters.slow_consumers == counted + 1

    async def test_publishers_wait_for_a_client_that_is_behind_until_it_has_caught_up(
        self, line: Line
    ) -> None:
        assert line.transport.caught_up() is None
        await line.is_stuck()
        await self.falls_behind(line)
        caught_up = line.transport.caught_up()
        assert caught_up is not None
        line.read_on()
        await asyncio.wait_for(caught_up, TIMEOUT)
        assert line.backpressure_calls == [True, False]
        assert line.transport.caught_up() is None
        assert line.slow_consumer_calls == 0

    async def test_nobody_waits_for_a_client_that_does_not_read(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backpressure, "PROGRESS_INTERVAL", 0.001)
        await line.is_stuck()
        await self.falls_behind(line)
        await until(lambda: line.backpressure_calls == [True, False])
        assert line.transport.caught_up() is None
        # Nor again, until it has caught up.
        line.transport.send(frame("more"))
        await turns()
        assert line.backpressure_calls == [True, False]

    async def test_nobody_waits_for_a_client_to_read_a_replay(self, line: Line) -> None:
        await line.is_stuck()
        # Nor several, as after a resume that was split: in one turn, or one after the other.
        line.transport.send_all(Frames([frame(n) for n in range(line.limit // 2 // len(frame(0)))]))
        line.transport.send_all(Frames([frame("split")]))
        await turns()
        line.transport.send_all(Frames([frame("again")]))
        await turns()
        assert line.backpressure_calls == []
        # But for the rest, and for everything after that.
        await self.falls_behind(line)
        line.read_on()
        await until(lambda: line.backpressure_calls == [True, False])
        await until(lambda: line.transport.buffered_bytes == 0)
        await line.is_stuck()
        line.backpressure_calls.clear()
        await self.falls_behind(line)

    @pytest.mark.parametrize("end", ["close", "vanish"])
    async def test_nobody_waits_for_a_client_that_is_sent_away_or_gone(
        self, line: Line, end: str
    ) -> None:
        await line.is_stuck()
        await self.falls_behind(line)
        caught_up = line.transport.caught_up()
        assert caught_up is not None
        if end == "vanish":
            line.vanish()
        else:
            line.transport.close(CloseCode.SLOW_CONSUMER, FINAL_FRAME, discard=True)
        line.read_on()
        await asyncio.wait_for(caught_up, TIMEOUT)
        assert line.backpressure_calls == [True, False]

    async def falls_behind(self, line: Line) -> None:
        """Send to a stuck client more than a part of the limit, and less than the limit."""
        assert line.backpressure_calls == []
        for number in range(line.limit // 2 // len(frame(0))):
            line.transport.send(frame(number))
            # Whoever sends is in the middle of something: it is told later.
            assert line.backpressure_calls == []
        await until(lambda: line.backpressure_calls[:1] == [True])

    async def test_a_client_that_has_not_had_the_time_to_read_is_no_overflow(
        self, line: Line
    ) -> None:
        """Though it is blocked: many publishers may bring more than the limit before they come to wait."""
        await line.is_stuck()
        sent = 2 * line.limit // len(frame(0))
        for number in range(sent):
            line.transport.send(frame(number))
            if number % 10 == 0:
                await turns()
        assert line.slow_consumer_calls == 0
        line.read_on()
        await line.has_received(text("stuck"), *(text(number) for number in range(sent)))
        assert line.slow_consumer_calls == 0

    async def test_a_client_too_slow_is_told_so_and_closed(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backpressure, "PROGRESS_INTERVAL", 0.001)
        await line.is_stuck()
        for number in range(3 * line.limit // len(frame(0))):
            line.transport.send(frame(number))
        await until(lambda: line.slow_consumer_calls > 0)
        line.transport.close(CloseCode.SLOW_CONSUMER, FINAL_FRAME, discard=True)
        line.read_on()
        assert await line.is_closed() == 4100
        assert line.received[-1] == FINAL_FRAME.text
        assert len(line.received) <= 2

    async def test_up_to_the_limit_may_wait(self, line: Line) -> None:
        await line.is_stuck()
        sent = [text("stuck")]
        while sum(map(len, sent)) + len(frame(0)) <= line.limit:
            line.transport.send(frame(len(sent)))
            sent.append(text(len(sent)))
        await turns()
        assert line.slow_consumer_calls == 0
        line.read_on()
        await line.has_received(*sent)

    async def test_a_burst_beyond_the_limit_is_no_overflow_for_a_client_that_reads(
        self, line: Line
    ) -> None:
        """One turn of the event loop may bring more than the limit: the client had no chance yet."""
        count = 2 * line.limit // len(frame(0))
        for number in range(count):
            line.transport.send(frame(number))
        await line.has_received(*(text(number) for number in range(count)))
        assert line.slow_consumer_calls == 0

    async def test_a_client_that_is_gone_disturbs_nobody(self, line: Line) -> None:
        line.vanish()
        for number in range(10):
            line.transport.send(frame(number))
            await turns()
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        await turns()
        assert line.received == []

    async def test_a_client_that_is_gone_while_frames_wait_disturbs_nobody(
        self, line: Line
    ) -> None:
        await line.is_stuck()
        line.transport.send(frame(1))
        line.vanish()
        line.read_on()
        await turns()
        line.transport.send(frame(2))
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        await turns()
        assert text(2) not in line.received


def text(content: object) -> str:
    return frame(content).text


def frame(content: object) -> Frame:
    """One of about 100 bytes."""
    return Frame(f'{{"content":"{content!s:.>80}"}}'.encode())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110  (no implementation tells when it holds)
            await asyncio.sleep(0.001)


async def turns() -> None:
    """Let what is ready run, and what that makes ready."""
    for _ in range(10):
        await asyncio.sleep(0)
