"""``DaphneTransport`` on what stands in for Daphne's protocol and Twisted's transport."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from dwsps_channels.connections.servers.daphne import DaphneConnection, DaphneTransport
from dwsps_channels.connections.transports.batch_writer import BatchWriter
from dwsps_channels.connections.transports.send_buffer import MAX_FRAMES_PER_BATCH
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.frames import websocket_frame
from tests.connections.fastlane.pipe import Reading
from tests.connections.fastlane.raw import CLOSE, Received
from tests.connections.servers.test_detection import twisted_transport
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


class Twisted:
    """A transport that takes all while the client reads, and pauses its producer when it does not."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        """The bytes that the client has read: one entry for each write."""
        self.is_read = True
        self.gone = self.aborted = False
        self.producer: Any = None
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        if self.gone:
            return
        self._waiting.append(data)
        if self.is_read:
            self._deliver()
        else:
            self.producer.pauseProducing()

    def _deliver(self) -> None:
        self.written += self._waiting
        self._waiting = []

    def read_on(self) -> None:
        self.is_read = True
        if not self.gone:
            self._deliver()
        if self.producer is not None:
            self.producer.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def abortConnection(self) -> None:
        self.aborted = self.gone = True
        if self.producer is not None:
            self.producer.stopProducing()


class Protocol:
    """Autobahn's, as far as it is used."""

    STATE_CLOSING = 2
    STATE_OPEN = 3

    def __init__(self, transport: Twisted) -> None:
        self.transport = transport
        self.state = self.STATE_OPEN


class DaphneLine(FramedLine):
    transport: DaphneTransport

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.twisted = Twisted()
        self.protocol = Protocol(self.twisted)
        self.transport = DaphneTransport(
            self.send,
            DaphneConnection(self.protocol),
            BatchWriter(asyncio.get_running_loop()),
            limit,
            self.on_slow_consumer,
            self.backpressure_calls.append,
        )
        self.transport.start()
        self.client = Reading(self.twisted)  # type: ignore[arg-type]  # it looks for what was written, no more
        self.events: list[dict[str, Any]] = []

    async def send(self, event: dict[str, Any]) -> None:
        """Daphne's own way, which is left to what is no message."""
        self.events.append(event)
        assert event["type"] == "websocket.close"
        assert type(event["code"]) is int
        self.twisted.write(websocket_frame(CLOSE, event["code"].to_bytes(2, "big")))
        self.protocol.state = self.protocol.STATE_CLOSING

    def on_slow_consumer(self) -> None:
        self.slow_consumer_calls += 1

    def stop_reading(self) -> None:
        self.twisted.is_read = False

    def read_on(self) -> None:
        self.twisted.read_on()

    def vanish(self) -> None:
        self.twisted.gone = True

    def new_frames(self) -> list[Received]:
        return list(self.client.frames())

    @property
    def is_cut_off(self) -> bool:
        return self.twisted.aborted


@pytest.fixture
async def daphne_line() -> AsyncIterator[DaphneLine]:
    line = DaphneLine(LIMIT)
    yield line
    line.transport.drop()
    await turns()


@pytest.fixture
def line(daphne_line: DaphneLine) -> DaphneLine:
    return daphne_line


class TestContract(TransportContract):
    @pytest.fixture
    def line(self, daphne_line: DaphneLine) -> DaphneLine:
        return daphne_line


async def test_frames_of_a_turn_are_one_write(line: DaphneLine) -> None:
    for number in range(5):
        line.transport.send(frame(number))
    await turns()
    assert len(line.twisted.written) == 1
    await line.has_received(*(text(number) for number in range(5)))


async def test_the_server_gets_its_connection_back_once_closed(line: DaphneLine) -> None:
    line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
    await line.is_closed()
    await until(lambda: line.twisted.producer is None)


async def test_nothing_follows_a_close_frame_of_the_servers_own(line: DaphneLine) -> None:
    """As the answer to the client's: the session hears of it only when the connection is gone."""
    line.protocol.state = line.protocol.STATE_CLOSING
    line.transport.send(frame(1))
    await turns()
    assert line.twisted.written == []


async def test_nothing_is_to_be_drained_while_the_client_reads(line: DaphneLine) -> None:
    line.transport.send(frame(1))
    assert line.transport.drained() is None


async def test_it_is_drained_when_the_client_reads(line: DaphneLine) -> None:
    await line.is_stuck()
    drained = line.transport.drained()
    assert drained is not None
    assert not drained.done()
    line.read_on()
    await asyncio.wait_for(drained, 30)
    assert line.transport.drained() is None


async def test_it_is_drained_when_the_client_is_gone(line: DaphneLine) -> None:
    await line.is_stuck()
    drained = line.transport.drained()
    assert drained is not None
    line.twisted.abortConnection()
    await asyncio.wait_for(drained, 30)


async def test_a_reader_that_no_longer_waits_does_not_keep_the_close_from_being_sent(
    line: DaphneLine,
) -> None:
    """As Daphne cancels its applications when it ends."""
    await line.is_stuck()
    line.transport.close(CloseCode.GOING_AWAY, FINAL_FRAME)
    await turns()
    drained = line.transport.drained()
    assert drained is not None
    drained.cancel()
    line.read_on()
    assert await line.is_closed() == 4200


async def test_answers_to_much_that_came_at_once_are_not_waited_with(line: DaphneLine) -> None:
    """The frames that one segment brings are handled within one turn, however many they are."""
    for number in range(3 * MAX_FRAMES_PER_BATCH):
        line.transport.send(frame(number))
        assert line.transport.drained() is None
    assert len(line.twisted.written) >= 3


class TestDaphneConnection:
    @pytest.fixture
    def transport(self) -> Any:
        return twisted_transport()

    @pytest.fixture
    def connection(self, transport: Any) -> DaphneConnection:
        return DaphneConnection(SimpleNamespace(transport=transport))

    async def test_it_is_told_when_to_stop_writing(
        self, transport: Any, connection: DaphneConnection
    ) -> None:
        assert connection.writable() is None
        transport.producer.pauseProducing()
        writable = connection.writable()
        assert writable is not None
        transport.producer.pauseProducing()
        assert connection.writable() is writable
        assert not writable.done()
        transport.producer.resumeProducing()
        await asyncio.wait_for(writable, 30)
        assert connection.writable() is None

    async def test_who_waits_goes_on_when_the_client_is_gone(
        self, transport: Any, connection: DaphneConnection
    ) -> None:
        transport.producer.pauseProducing()
        writable = connection.writable()
        assert writable is not None
        transport.producer.stopProducing()
        await asyncio.wait_for(writable, 30)

    async def test_a_writer_that_gave_up_is_not_told(
        self, transport: Any, connection: DaphneConnection
    ) -> None:
        transport.producer.pauseProducing()
        writable = connection.writable()
        assert writable is not None
        writable.cancel()
        transport.producer.resumeProducing()
        assert connection.writable() is None

    async def test_reading_stops_and_goes_on(
        self, transport: Any, connection: DaphneConnection
    ) -> None:
        connection.pause_reading()
        assert transport.producerState == "paused"
        connection.resume_reading()
        assert transport.producerState == "producing"

    async def test_abort_cuts_it_off(self, transport: Any, connection: DaphneConnection) -> None:
        connection.abort()
        assert transport.disconnected

    async def test_release_lets_the_server_close_it(
        self, transport: Any, connection: DaphneConnection
    ) -> None:
        transport.producer.pauseProducing()
        writable = connection.writable()
        assert writable is not None
        connection.release()
        await asyncio.wait_for(writable, 30)
        assert transport.producer is None
