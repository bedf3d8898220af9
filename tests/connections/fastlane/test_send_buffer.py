"""The outgoing half, as the transport of a session."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwsps_channels.connections.transports.backpressure import BURST_FACTOR
from dwsps_channels.connections.transports.send_buffer import (
    MAX_FRAMES_PER_BATCH,
    SLICE_BYTES,
    SendBuffer,
)
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.frames import Frame, Frames
from tests.connections.fastlane.pipe import PipeConnection
from tests.connections.fastlane.raw import Received
from tests.connections.transports.contract import (
    FINAL_FRAME,
    TransportContract,
    frame,
    text,
    turns,
    until,
)
from tests.connections.transports.framed import FramedLine

LIMIT = 4096


class CountingHandler:
    """Takes a connection over and counts what it is told."""

    def __init__(self, line: "TakenLine") -> None:
        self.line = line

    def receive(self, message: str | bytes) -> None:
        self.line.messages.append(message)

    def receive_too_large(self, size: int, head: bytes, tail: bytes) -> None:
        pytest.fail("no message is too large")

    def receive_control(self, size: int) -> None:
        pytest.fail("the client sends no pings")

    def on_backpressure(self, is_behind: bool) -> None:
        self.line.backpressure_calls.append(is_behind)

    def on_slow_consumer(self) -> None:
        self.line.slow_consumer_calls += 1

    def on_ping_timeout(self) -> None:
        self.line.silent += 1

    def closed(self, handled: object) -> None:
        self.line.closed += 1


class TakenLine(FramedLine):
    """A connection that was taken over, and the client's end of it."""

    transport: SendBuffer
    handler_class: type[CountingHandler] = CountingHandler

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.messages: list[str | bytes] = []
        self.silent = self.closed = 0
        self.connection = PipeConnection(self.application)
        self.pipe = self.connection.pipe

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        scope["extensions"]["dwsps.fastlane"].take_over(self.limit, self.make_handler)

    def make_handler(self, transport: Transport) -> CountingHandler:
        assert isinstance(transport, SendBuffer)
        self.transport = transport
        return self.handler_class(self)

    def stop_reading(self) -> None:
        self.pipe.is_read = False

    def read_on(self) -> None:
        self.pipe.read_on()

    def vanish(self) -> None:
        self.pipe.broken = RuntimeError("the handler is closed")

    def new_frames(self) -> list[Received]:
        return list(self.connection.frames())

    @property
    def is_cut_off(self) -> bool:
        return self.pipe.aborted


@pytest.fixture
async def taken_line() -> AsyncIterator[TakenLine]:
    line = TakenLine(LIMIT)
    await line.connection.open()
    await turns()
    yield line
    line.pipe.lose()


@pytest.fixture
def line(taken_line: TakenLine) -> TakenLine:
    return taken_line


class TestContract(TransportContract):
    @pytest.fixture
    def line(self, taken_line: TakenLine) -> TakenLine:
        return taken_line


class TestGathering:
    async def test_frames_of_a_turn_are_written_at_once_at_its_end(self, line: TakenLine) -> None:
        before = len(line.pipe.written)
        for number in range(10):
            line.transport.send(frame(number))
        assert len(line.pipe.written) == before
        await turns()
        assert len(line.pipe.written) == before + 1
        await line.has_received(*(text(number) for number in range(10)))

    async def test_nothing_waits_longer_than_a_turn(self, line: TakenLine) -> None:
        line.transport.send(frame(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert line.received == [text(1)]

    async def test_a_frame_is_made_once_for_all(self, line: TakenLine) -> None:
        shared = frame(1)
        assert shared.wire is None
        line.transport.send(shared)
        wire = shared.wire
        line.transport.send(shared)
        assert shared.wire is wire
        await line.has_received(text(1), text(1))

    async def test_who_sends_much_in_answer_to_one_segment_is_not_waited_with(self) -> None:
        """Else what one segment causes would be pending whole, however much it is."""
        line = EchoLine(LIMIT)
        await line.connection.open()
        await turns()
        before = len(line.pipe.written)
        line.connection.receive(*(b"%d" % number for number in range(3 * MAX_FRAMES_PER_BATCH)))
        assert len(line.pipe.written) >= before + 3
        line.pipe.lose()


class EchoingHandler(CountingHandler):
    def receive(self, message: str | bytes) -> None:
        assert isinstance(message, str)
        self.line.transport.send(Frame(message.encode()))


class EchoLine(TakenLine):
    handler_class = EchoingHandler


class TestBuffer:
    async def test_it_stays_bounded_though_the_client_reads_nothing(self, line: TakenLine) -> None:
        await line.is_stuck()
        for number in range(100 * LIMIT // len(frame(0))):
            line.transport.send(frame(number))
            if number % 10 == 0:
                await turns()
            assert line.transport.buffered_bytes <= BURST_FACTOR * LIMIT

    async def test_it_stays_bounded_in_a_turn_in_which_nobody_could_read(self) -> None:
        limit = SLICE_BYTES
        line = TakenLine(limit)
        await line.connection.open()
        for number in range(2 * BURST_FACTOR * limit // len(frame(0))):
            line.transport.send(frame(number))
        await turns()
        assert line.slow_consumer_calls == 1
        assert line.received == []
        line.pipe.lose()

    async def test_one_frame_beyond_the_limit_reaches_a_client_that_reads(
        self, line: TakenLine
    ) -> None:
        large = Frame(b'"' + b"x" * 10 * LIMIT + b'"')
        line.transport.send(large)
        await line.has_received(large.text)
        assert line.slow_consumer_calls == 0

    async def test_clients_of_a_replay_are_written_the_same_bytes(self) -> None:
        frames = Frames(Frame(b"[%d]" % number) for number in range(MAX_FRAMES_PER_BATCH))
        lines = [TakenLine(LIMIT) for _ in range(2)]
        for line in lines:
            await line.connection.open()
            await turns()
            line.transport.send_all(frames)
            assert line.transport.pending[0] is frames.pieces()[0]
            await turns()
            assert [each.payload for each in line.new_frames()] == [each.data for each in frames]
            line.pipe.lose()

    async def test_much_is_handed_over_in_slices(self) -> None:
        """Bytes that the event loop has taken cannot be taken back."""
        line = TakenLine(100 * SLICE_BYTES)
        await line.connection.open()
        await line.is_stuck()
        for number in range(10 * SLICE_BYTES // len(frame(0))):
            line.transport.send(frame(number))
        await turns()
        buffered = line.transport.buffered_bytes
        assert buffered > 9 * SLICE_BYTES
        line.connection.protocol.resume_writing()
        assert buffered - 2 * SLICE_BYTES < line.transport.buffered_bytes < buffered
        line.read_on()
        await until(lambda: line.transport.buffered_bytes == 0)
        line.pipe.lose()


class TestReading:
    """A client that does not read what it is sent is not read either."""

    async def test_it_stops_and_goes_on_with_the_writing(self, line: TakenLine) -> None:
        assert line.pipe.is_reading()
        await line.is_stuck()
        assert not line.pipe.is_reading()
        line.connection.receive(b"was on its way")
        line.read_on()
        line.connection.receive(b"came later")
        assert line.messages == ["was on its way", "came later"]

    async def test_after_a_close_it_goes_on_whatever_waits(self, line: TakenLine) -> None:
        await line.is_stuck()
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        await turns()
        assert line.pipe.is_reading()


class TestEnd:
    async def test_closed_is_told_once(self, line: TakenLine) -> None:
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        assert line.closed == 0
        line.pipe.lose()
        assert line.closed == 1

    async def test_nothing_is_kept_for_a_client_that_is_gone(self, line: TakenLine) -> None:
        await line.is_stuck()
        line.transport.send(frame(1))
        await turns()
        line.pipe.lose()
        line.transport.send(frame(2))
        assert line.transport.buffered_bytes == 0
        assert line.transport.is_empty
