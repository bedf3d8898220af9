"""``AsgiTransport`` behind both kinds of server: one whose ``send`` waits for the client, one whose does not."""

import asyncio
import logging
from collections.abc import AsyncIterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from dwsps_channels.connections.servers.daphne import DaphneConnection
from dwsps_channels.connections.transports.asgi import (
    CONGESTED_BYTES,
    FRAMES_BETWEEN_YIELDS,
    AsgiTransport,
)
from dwsps_channels.connections.transports.backpressure import BURST_FACTOR
from dwsps_channels.connections.transports.server_connection import ServerConnection
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.frames import Frame, Frames
from tests.connections.transports.contract import (
    FINAL_FRAME,
    Line,
    TransportContract,
    frame,
    text,
    turns,
    until,
)

LIMIT = 4096


class AsgiLine(Line):
    """A transport, its writer, and a client in place of the ASGI server."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.reading = asyncio.Event()
        self.reading.set()
        self.gone = False
        self.aborted = False
        self.events: list[dict[str, Any]] = []
        self.transport: AsgiTransport = AsgiTransport(
            self.send,
            self.connection(),
            limit,
            self.on_slow_consumer,
            self.backpressure_calls.append,
        )
        self.transport.start()

    def connection(self) -> ServerConnection:
        raise NotImplementedError

    async def send(self, event: dict[str, Any]) -> None:
        raise NotImplementedError

    def on_slow_consumer(self) -> None:
        self.slow_consumer_calls += 1

    def take(self, event: dict[str, Any]) -> None:
        if self.gone:
            raise OSError("the client has gone")
        self.events.append(event)

    def vanish(self) -> None:
        self.gone = True

    @property
    def received(self) -> list[str]:
        return [event["text"] for event in self.events if event["type"] == "websocket.send"]

    @property
    def close_code(self) -> int | None:
        codes = [event["code"] for event in self.events if event["type"] == "websocket.close"]
        return codes[0] if codes else None

    @property
    def is_cut_off(self) -> bool:
        return self.aborted

    async def end(self) -> None:
        self.transport.drop()
        await turns()


class BlockingLine(AsgiLine):
    """As with uvicorn: ``send`` returns once the client reads."""

    def connection(self) -> ServerConnection:
        line = self

        class Aborting(ServerConnection):
            def abort(self) -> None:
                line.aborted = True

        return Aborting()

    async def send(self, event: dict[str, Any]) -> None:
        await self.reading.wait()
        self.take(event)

    def stop_reading(self) -> None:
        self.reading.clear()

    def read_on(self) -> None:
        self.reading.set()


class UnboundedLine(AsgiLine):
    """As with Daphne: ``send`` takes everything, and Twisted's transport tells its producer when to stop."""

    producer: Any = None
    released = False

    def connection(self) -> ServerConnection:
        return DaphneConnection(SimpleNamespace(transport=self))

    async def send(self, event: dict[str, Any]) -> None:
        self.take(event)

    def stop_reading(self) -> None:
        self.producer.pauseProducing()

    def read_on(self) -> None:
        if not self.released:
            self.producer.resumeProducing()

    # Twisted's transport, as far as it is used.

    def unregisterProducer(self) -> None:
        self.released = self.producer is not None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def abortConnection(self) -> None:
        self.aborted = True


class AsgiContract(TransportContract):
    line_class: type[AsgiLine]

    @pytest.fixture
    async def line(self) -> AsyncIterator[Line]:
        line = self.line_class(LIMIT)
        await turns()
        yield line
        await line.end()


class TestWhereSendWaits(AsgiContract):
    line_class = BlockingLine


class TestWhereSendDoesNot(AsgiContract):
    line_class = UnboundedLine

    async def test_the_server_gets_its_connection_back_once_closed(
        self, line: UnboundedLine
    ) -> None:
        assert not line.released
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        await line.is_closed()
        await until(lambda: line.released)


@pytest.fixture(params=[BlockingLine, UnboundedLine])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[AsgiLine]:
    made: AsgiLine = request.param(LIMIT)
    await turns()
    yield made
    await made.end()


@pytest.fixture(params=[BlockingLine, UnboundedLine])
async def roomy_line(request: pytest.FixtureRequest) -> AsyncIterator[AsgiLine]:
    """One with room for a congestion below the limit."""
    made: AsgiLine = request.param(4 * CONGESTED_BYTES)
    await turns()
    yield made
    await made.end()


class TestBuffer:
    async def test_it_is_counted_and_sent_empty(self, line: AsgiLine) -> None:
        transport = line.transport
        assert transport.buffered_bytes == 0
        transport.send(frame(1))
        transport.send(frame(2))
        assert transport.buffered_bytes == len(frame(1)) + len(frame(2))
        await line.has_received(text(1), text(2))
        assert transport.buffered_bytes == 0

    async def test_it_is_counted_in_bytes(self, line: AsgiLine) -> None:
        line.transport.send(Frame('"☃"'.encode()))
        assert line.transport.buffered_bytes == 5

    async def test_it_stays_bounded_though_the_client_reads_nothing(self, line: AsgiLine) -> None:
        await line.is_stuck()
        for number in range(100 * LIMIT // len(frame(0))):
            line.transport.send(frame(number))
            assert line.transport.buffered_bytes <= BURST_FACTOR * LIMIT + len(frame(0))

    async def test_it_stays_bounded_in_a_turn_in_which_nobody_could_read(
        self, line: AsgiLine
    ) -> None:
        for number in range(100 * LIMIT // len(frame(0))):
            line.transport.send(frame(number))
            assert line.transport.buffered_bytes <= BURST_FACTOR * LIMIT + len(frame(0))
        await until(lambda: line.slow_consumer_calls == 1)

    async def test_one_frame_beyond_the_limit_reaches_a_client_that_reads(
        self, line: AsgiLine
    ) -> None:
        large = Frame(b'"' + b"x" * 10 * LIMIT + b'"')
        line.transport.send(large)
        await line.has_received(large.text)
        assert line.slow_consumer_calls == 0

    async def test_others_have_their_turn_while_many_frames_are_sent(
        self, roomy_line: AsgiLine
    ) -> None:
        count = 10 * FRAMES_BETWEEN_YIELDS
        roomy_line.transport.send_all(Frames([frame(number) for number in range(count)]))
        seen = [0]
        while seen[-1] < count:
            await asyncio.sleep(0)
            seen.append(len(roomy_line.received))
        assert max(after - before for before, after in pairwise(seen)) <= FRAMES_BETWEEN_YIELDS

    async def test_finish_forgets_it(self, line: AsgiLine) -> None:
        await line.is_stuck()
        line.transport.send(frame(1))
        line.transport.drop()
        assert line.transport.buffered_bytes == 0
        line.transport.send(frame(2))
        assert line.transport.buffered_bytes == 0
        line.transport.drop()


class TestClose:
    async def test_the_code_is_a_plain_integer(self, line: AsgiLine) -> None:
        """Autobahn takes no other kind."""
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        assert type(await line.is_closed()) is int

    async def test_the_writer_ends(self, line: AsgiLine) -> None:
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        assert line.transport.writer is not None
        await asyncio.wait_for(line.transport.writer, 30)

    async def test_a_client_that_was_too_slow_is_not_closed_as_if_it_had_everything(
        self, line: AsgiLine
    ) -> None:
        """The server may go away just when frames were dropped."""
        await line.is_stuck()
        for number in range(BURST_FACTOR * LIMIT // len(frame(0)) + 2):
            line.transport.send(frame(number))
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        await until(lambda: line.slow_consumer_calls == 1)
        line.transport.close(CloseCode.SLOW_CONSUMER, FINAL_FRAME, discard=True)
        line.read_on()
        assert await line.is_closed() == CloseCode.SLOW_CONSUMER


class TestRelief:
    """A client need not read more for what was not sent to it."""

    async def test_nothing_to_wait_for_while_little_waits(self, roomy_line: AsgiLine) -> None:
        assert roomy_line.transport.drained() is None
        await roomy_line.is_stuck()
        assert roomy_line.transport.drained() is None

    async def test_it_comes_once_the_client_has_read(self, roomy_line: AsgiLine) -> None:
        drained = await congested(roomy_line)
        assert roomy_line.transport.drained() is drained
        await turns()
        assert not drained.done()
        roomy_line.read_on()
        await asyncio.wait_for(drained, 30)
        assert roomy_line.transport.drained() is None

    async def test_it_comes_with_the_close(self, roomy_line: AsgiLine) -> None:
        drained = await congested(roomy_line)
        roomy_line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        await asyncio.wait_for(drained, 30)
        assert roomy_line.transport.drained() is None

    async def test_it_comes_when_the_client_is_forgotten(self, roomy_line: AsgiLine) -> None:
        drained = await congested(roomy_line)
        roomy_line.transport.drop()
        await asyncio.wait_for(drained, 30)
        assert roomy_line.transport.drained() is None

    async def test_it_comes_when_the_client_turns_out_to_be_gone(
        self, roomy_line: AsgiLine
    ) -> None:
        """Else nobody would ever read that it is."""
        drained = await congested(roomy_line)
        roomy_line.vanish()
        roomy_line.read_on()
        await asyncio.wait_for(drained, 30)
        assert roomy_line.transport.drained() is None


class TestGoneClient:
    async def test_the_connection_is_aborted_and_the_reason_told_to_those_who_look(
        self, line: AsgiLine, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "dwsps_channels.transport")
        line.vanish()
        line.transport.send(frame(1))
        assert line.transport.writer is not None
        await asyncio.wait_for(line.transport.writer, 30)
        assert line.aborted
        assert [record.getMessage() for record in caplog.records] == [
            "a connection could not be written to: OSError('the client has gone')"
        ]

    async def test_nothing_is_kept_for_it(self, line: AsgiLine) -> None:
        line.vanish()
        line.transport.send(frame(1))
        assert line.transport.writer is not None
        await asyncio.wait_for(line.transport.writer, 30)
        line.transport.send(frame(2))
        assert line.transport.buffered_bytes == 0
        assert line.slow_consumer_calls == 0

    @pytest.mark.parametrize("call", ["send", "close"])
    async def test_a_writer_that_the_loop_has_cancelled_harms_no_call(
        self, line: AsgiLine, call: str
    ) -> None:
        writer = line.transport.writer
        assert writer is not None
        await turns()  # it waits for a frame
        writer.cancel()
        if call == "send":
            line.transport.send(frame(1))
        line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
        await asyncio.wait([writer])
        assert writer.cancelled()
        assert line.events == []


async def congested(line: AsgiLine) -> asyncio.Future[None]:
    await line.is_stuck()
    for number in range(2 * CONGESTED_BYTES // len(frame(0))):
        line.transport.send(frame(number))
    drained = line.transport.drained()
    assert drained is not None
    return drained
