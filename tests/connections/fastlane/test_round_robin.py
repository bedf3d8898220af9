"""A flood on one connection is handled bit by bit, so that the others have their turns."""

import asyncio
from typing import Any

import pytest

from dwsps_channels.connections.fastlane.protocol import WebSocketProtocol
from dwsps_channels.connections.fastlane.round_robin import (
    MAX_BYTES_PER_TURN,
    MAX_FRAMES_PER_TURN,
    TURNS_PER_ITERATION,
    RoundRobin,
)
from dwsps_channels.protocol.frames import Frame, Frames
from tests.connections.fastlane.pipe import PipeConnection
from tests.connections.fastlane.raw import CONTINUATION, PING, PONG, TEXT, close, frame
from tests.connections.fastlane.test_takeover import RecordingHandler, taking_over
from tests.connections.transports.contract import turns, until

FLOOD = 10 * MAX_FRAMES_PER_TURN


@pytest.fixture
def handler() -> RecordingHandler:
    return RecordingHandler()


@pytest.fixture
async def connection(handler: RecordingHandler) -> PipeConnection:
    connection = PipeConnection(taking_over(handler, message_limit=MAX_BYTES_PER_TURN))
    await connection.open()
    await turns()
    return connection


class TestProtocol:
    async def test_one_turn_handles_a_part_of_it(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.receive(*(b"%d" % number for number in range(FLOOD)))
        assert len(handler.messages) == MAX_FRAMES_PER_TURN
        assert not connection.pipe.is_reading()
        # The next turns take what is left, in order, and then the client is read again.
        seen = {0, len(handler.messages)}
        while not connection.pipe.is_reading():
            await asyncio.sleep(0)
            seen.add(len(handler.messages))
        assert handler.messages == [str(number) for number in range(FLOOD)]
        assert seen == set(range(0, FLOOD + 1, MAX_FRAMES_PER_TURN))

    async def test_a_replay_is_a_turn(self) -> None:
        class Replaying(RecordingHandler):
            def receive(self, message: str | bytes) -> None:
                assert self.transport is not None
                self.messages.append(message)
                self.transport.send_all(Frames([Frame(b"[]")] * MAX_FRAMES_PER_TURN))

        handler = Replaying()
        connection = PipeConnection(taking_over(handler))
        await connection.open()
        await turns()
        connection.receive(*[b"resume"] * 5)
        assert len(handler.messages) == 1
        assert not connection.pipe.is_reading()
        await until(connection.pipe.is_reading)
        assert len(handler.messages) == 5
        assert len(connection.frames()) == 5 * MAX_FRAMES_PER_TURN

    async def test_a_replay_that_was_written_costs_no_further_turn(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        assert handler.transport is not None
        handler.transport.send_all(Frames([Frame(b"[]")] * 2 * MAX_FRAMES_PER_TURN))
        await turns()
        connection.receive(*[b"x"] * 5)
        assert len(handler.messages) == 5
        assert connection.pipe.is_reading()

    @pytest.mark.parametrize("opcode", [PING, PONG])
    async def test_control_frames_count(self, connection: PipeConnection, opcode: int) -> None:
        protocol: WebSocketProtocol = connection.protocol
        protocol.data_received(frame(opcode) * FLOOD + frame(PING, b"last"))
        assert not connection.pipe.is_reading()
        await until(lambda: (PONG, b"last") in connection.frames())
        assert connection.pipe.is_reading()

    @pytest.mark.parametrize("size", [0, MAX_BYTES_PER_TURN + 1])
    async def test_fragments_count(
        self, handler: RecordingHandler, connection: PipeConnection, size: int
    ) -> None:
        """Of a message that is kept, and of one that is too large for that."""
        protocol: WebSocketProtocol = connection.protocol
        fragments = frame(TEXT, b"x" * size, fin=False) + frame(CONTINUATION, fin=False) * FLOOD
        protocol.data_received(fragments + frame(CONTINUATION) + frame(PING, b"last"))
        iterations = 0
        while not connection.pipe.is_reading():
            await asyncio.sleep(0)
            iterations += 1
        assert iterations >= FLOOD // MAX_FRAMES_PER_TURN
        await until(lambda: (PONG, b"last") in connection.frames())
        assert handler.messages == ([""] if not size else [])

    async def test_a_large_chunk_waits_for_a_turn(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        """The event loop may read the same socket again at once, if reading goes on."""
        connection.receive(b"x" * MAX_BYTES_PER_TURN)
        assert handler.messages == []
        assert not connection.pipe.is_reading()
        await until(connection.pipe.is_reading)
        assert len(handler.messages) == 1

    async def test_one_that_has_waited_for_a_message_goes_on_in_its_turn(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        handled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handler.answers = [handled]
        connection.receive(b"first", *[b"x" * 1000] * FLOOD)
        await until(lambda: len(handler.messages) == 1)
        handled.set_result(None)
        await turns()
        assert 1 < len(handler.messages) < FLOOD
        await until(connection.pipe.is_reading)
        assert len(handler.messages) == FLOOD + 1

    async def test_the_usual_message_costs_no_turn(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.receive(*[b"x"] * (MAX_FRAMES_PER_TURN - 1))
        assert len(handler.messages) == MAX_FRAMES_PER_TURN - 1
        assert connection.pipe.is_reading()

    async def test_who_waits_for_a_turn_is_not_taken_for_silent(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.receive(*[b"x"] * FLOOD)
        for _ in range(3):
            connection.protocol.on_ping_due()
        assert handler.told == []

    async def test_a_client_that_leaves_meanwhile_is_forgotten(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.receive(*[b"x"] * FLOOD)
        connection.pipe.lose()
        await turns()
        assert len(handler.messages) == MAX_FRAMES_PER_TURN
        assert handler.told == ["closed"]

    async def test_a_close_behind_a_flood_is_answered(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.protocol.data_received(frame(TEXT, b"x") * FLOOD + close(1000))
        await until(lambda: connection.state.connections == set())
        assert len(handler.messages) == FLOOD
        assert not connection.pipe.aborted


class TestRoundRobin:
    async def test_each_has_one_before_anybody_has_two_and_few_have_one_at_once(self) -> None:
        taken: list[list[int]] = []
        waiting = RoundRobin(asyncio.get_running_loop())
        count = 2 * TURNS_PER_ITERATION + 1

        class Flooding:
            def __init__(self, number: int) -> None:
                self.number = number
                self.left = 3

            def take_turn(self) -> None:
                taken[-1].append(self.number)
                self.left -= 1
                if self.left:
                    waiting.enqueue(self)

        for number in range(count):
            waiting.enqueue(Flooding(number))
        while sum(map(len, taken)) < 3 * count:
            taken.append([])
            await asyncio.sleep(0)
        assert [number for one in taken for number in one] == [*range(count)] * 3
        assert max(map(len, taken)) == TURNS_PER_ITERATION

    async def test_a_defect_costs_others_no_turn(self) -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context["exception"])
        )
        done: list[int] = []
        waiting = RoundRobin(asyncio.get_running_loop())

        def connection(number: int) -> Any:
            class One:
                def take_turn(self) -> None:
                    if number == 0:
                        raise RuntimeError("a defect")
                    done.append(number)

            return One()

        for number in range(2 * TURNS_PER_ITERATION):
            waiting.enqueue(connection(number))
        await until(lambda: len(done) == 2 * TURNS_PER_ITERATION - 1)
        assert len(reported) == 1
