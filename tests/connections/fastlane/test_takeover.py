"""The fast lane's scope extension: a handler takes the connection over from the application."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dwsps_channels.connections.fastlane.takeover import EXTENSION
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.frames import Frame
from tests.connections.fastlane.pipe import PipeConnection
from tests.connections.fastlane.raw import CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame
from tests.connections.transports.contract import turns, until


class RecordingHandler:
    """A handler that does what it is told to, and notes what it is told."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.answers: list[Awaitable[None] | None] = []
        self.told: list[str] = []
        self.controls: list[int] = []
        self.too_large: list[tuple[int, bytes, bytes]] = []
        self.transport: Transport | None = None
        self.handled_at_end: asyncio.Future[None] | None = None

    def make_handler(self, transport: Transport) -> "RecordingHandler":
        self.transport = transport
        return self

    def receive(self, message: str | bytes) -> Awaitable[None] | None:
        self.messages.append(message)
        return self.answers.pop(0) if self.answers else None

    def receive_too_large(self, size: int, head: bytes, tail: bytes) -> None:
        self.too_large.append((size, head, tail))

    def receive_control(self, size: int) -> None:
        self.controls.append(size)

    def on_backpressure(self, is_behind: bool) -> None:
        self.told.append("lags" if is_behind else "backpressure_calls no more")

    def on_slow_consumer(self) -> None:
        self.told.append("behind")

    def on_ping_timeout(self) -> None:
        self.told.append("silent")
        assert self.transport is not None
        self.transport.close(4101, Frame(b"{}"), discard=True)

    def closed(self, handled: "asyncio.Future[None] | None") -> None:
        self.told.append("closed")
        self.handled_at_end = handled


@pytest.fixture
def handler() -> RecordingHandler:
    return RecordingHandler()


def taking_over(handler: RecordingHandler, message_limit: int | None = None) -> Callable[..., Any]:
    """An application that gives the connection up at once, and ends."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        scope["extensions"][EXTENSION].take_over(1_000_000, handler.make_handler, message_limit)

    return application


@pytest.fixture
async def connection(handler: RecordingHandler) -> PipeConnection:
    connection = PipeConnection(taking_over(handler))
    await connection.open()
    await turns()
    return connection


class TestTakeOver:
    async def test_messages_go_to_the_handler_within_the_call_that_brings_them(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.receive(b"one", b"two")
        assert handler.messages == ["one", "two"]
        connection.protocol.data_received(frame(0x2, b"\xff"))
        assert handler.messages[2:] == [b"\xff"]

    @pytest.mark.parametrize("leaves", ["by a close", "at once"])
    async def test_it_is_told_what_is_still_handled_when_the_client_leaves(
        self, handler: RecordingHandler, connection: PipeConnection, leaves: str
    ) -> None:
        answer = asyncio.get_running_loop().create_future()
        handler.answers = [answer]
        connection.receive(b"one")
        if leaves == "at once":
            connection.pipe.lose()
        else:
            connection.protocol.data_received(close(1000))
            connection.pipe.lose()
        assert handler.told == ["closed"]
        handled = handler.handled_at_end
        assert handled is not None
        assert not handled.done()
        answer.set_result(None)
        await handled

    async def test_the_application_s_end_does_not_end_the_connection(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        assert connection.state.tasks == set()
        assert connection.frames() == []
        assert not connection.pipe.closing
        assert handler.told == []

    async def test_what_came_before_comes_first(self, handler: RecordingHandler) -> None:
        accepted, go = asyncio.Event(), asyncio.Event()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            accepted.set()
            await go.wait()
            scope["extensions"][EXTENSION].take_over(1_000_000, handler.make_handler)

        connection = PipeConnection(application)
        await connection.open()
        await accepted.wait()
        for start in range(0, 200, 50):
            connection.receive(*(b"%d" % number for number in range(start, start + 50)))
            await turns()
        handler.answers = [asyncio.sleep(0.001) for _ in range(100)]
        go.set()
        await turns()
        connection.receive(b"200")
        await until(lambda: len(handler.messages) == 201)
        assert handler.messages == [str(number) for number in range(201)]

    async def test_who_left_meanwhile_is_told_at_once(self, handler: RecordingHandler) -> None:
        accepted, go = asyncio.Event(), asyncio.Event()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            accepted.set()
            await go.wait()
            scope["extensions"][EXTENSION].take_over(1_000_000, handler.make_handler)

        connection = PipeConnection(application)
        await connection.open()
        await accepted.wait()
        connection.pipe.lose()
        go.set()
        await until(lambda: handler.told == ["closed"])
        assert connection.state.tasks == set()
        assert connection.state.connections == set()

    @pytest.mark.parametrize("accepts", [False, True])
    async def test_it_is_for_who_accepted_and_only_once(
        self, handler: RecordingHandler, accepts: bool
    ) -> None:
        errors: list[RuntimeError] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            takeover = scope["extensions"][EXTENSION]
            if accepts:
                await send({"type": "websocket.accept"})
                takeover.take_over(1_000_000, handler.make_handler)
            with pytest.raises(RuntimeError) as raised:
                takeover.take_over(1_000_000, handler.make_handler)
            errors.append(raised.value)
            if not accepts:
                await send({"type": "websocket.accept"})

        await PipeConnection(application).open()
        await until(lambda: len(errors) == 1)

    async def test_a_middleware_that_raises_afterwards_ends_the_connection(
        self, handler: RecordingHandler, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def raising(scope: Any, receive: Any, send: Any) -> None:
            await taking_over(handler)(scope, receive, send)
            raise RuntimeError("a defect")

        connection = PipeConnection(raising)
        await connection.open()
        await turns()
        (only,) = connection.frames()
        assert (only.opcode, only.payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
        assert "Exception in ASGI application" in caplog.text


class TestWaiting:
    """A message that takes time is the only one that is handled."""

    async def test_the_next_ones_wait_in_order(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handler.answers = [None, decided]
        connection.receive(b"one", b"two", b"three")
        assert not connection.pipe.is_reading()
        connection.receive(b"four")  # was on its way
        await turns()
        assert handler.messages == ["one", "two"]
        decided.set_result(None)
        await turns()
        assert handler.messages == ["one", "two", "three", "four"]
        assert connection.pipe.is_reading()

    async def test_a_defect_in_it_is_reported_and_the_next_is_handled(
        self,
        handler: RecordingHandler,
        connection: PipeConnection,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def fail() -> None:
            raise RuntimeError("a defect")

        handler.answers = [fail()]
        connection.receive(b"one", b"two")
        await turns()
        assert handler.messages == ["one", "two"]
        (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
        assert "a defect" in str(record.exc_info)

    async def test_a_client_that_leaves_meanwhile_is_told_of(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handler.answers = [decided]
        connection.receive(b"one", b"two")
        connection.pipe.lose()
        assert handler.told == ["closed"]
        decided.set_result(None)
        await turns()
        assert handler.messages == ["one"]


class TestControlFrames:
    async def test_pings_and_pongs_are_counted(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.protocol.data_received(frame(PING, b"abc") + frame(PONG) + frame(TEXT, b"x"))
        assert handler.controls == [9, 6]
        await turns()
        assert connection.frames() == [(PONG, b"abc")]

    async def test_a_ping_that_closes_the_connection_is_not_answered(
        self, handler: RecordingHandler, connection: PipeConnection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handler, "receive_control", lambda size: handler.on_ping_timeout())
        connection.protocol.data_received(frame(PING) * 3)
        await turns()
        assert [received.opcode for received in connection.frames()] == [TEXT, CLOSE]


class TestEnd:
    async def test_the_client_s_close_is_answered_and_told_once(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.protocol.data_received(close(1000, b"bye"))
        assert connection.frames() == [(CLOSE, b"\x03\xe8")]
        await until(lambda: connection.state.connections == set())
        assert handler.told == ["closed"]

    async def test_what_was_answered_before_a_close_is_sent_before_it(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        assert handler.transport is not None
        handler.transport.send(Frame(b"{}"))
        connection.protocol.data_received(close(1000))
        assert connection.frames() == [(TEXT, b"{}"), (CLOSE, b"\x03\xe8")]

    async def test_messages_after_our_close_are_thrown_away(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        assert handler.transport is not None
        handler.transport.close(4200, Frame(b"{}"))
        connection.receive(b"late")
        await turns()
        assert handler.messages == []
        assert connection.frames()[-1].opcode == CLOSE
        connection.protocol.data_received(close(4200))
        await until(lambda: connection.pipe.closing)
        assert not connection.pipe.aborted
        assert handler.told == ["closed"]

    async def test_uvicorn_s_end_closes_it(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.protocol.shutdown()
        await turns()
        assert connection.frames() == [(CLOSE, (1012).to_bytes(2, "big"))]
        assert handler.told == ["closed"]


class TestOversized:
    async def test_the_handler_is_told_its_size_and_its_ends(
        self, handler: RecordingHandler
    ) -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            scope["extensions"][EXTENSION].take_over(1_000_000, handler.make_handler, 1000)

        connection = PipeConnection(application)
        await connection.open()
        await turns()
        large = b"a" * 1000 + b"z" * 1000
        connection.receive(b"x" * 1000, large, b"next")
        assert handler.messages == ["x" * 1000, "next"]
        assert handler.too_large == [(2000, b"a" * 512, b"z" * 512)]


class TestPings:
    """The pings are made due by hand: no test waits for twenty seconds."""

    async def test_a_ping_is_sent_when_it_is_due(self, connection: PipeConnection) -> None:
        for _ in range(3):
            connection.protocol.on_ping_due()
            await turns()
            assert connection.frames() == [(PING, b"")]
            connection.protocol.data_received(frame(PONG))

    async def test_whatever_frame_a_client_sends_is_a_sign_of_life(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        for _ in range(3):
            connection.protocol.on_ping_due()
            connection.receive(b"x")
        assert handler.told == []

    async def test_a_part_of_a_frame_is_no_sign_of_life(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        begun = iter(frame(TEXT, b"x" * 100))
        connection.protocol.data_received(bytes([next(begun)]))
        connection.protocol.on_ping_due()
        for _ in range(10):
            connection.protocol.data_received(bytes([next(begun)]))
        connection.protocol.on_ping_due()
        assert handler.told == ["silent"]

    async def test_a_fragment_is_one(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.protocol.data_received(frame(TEXT, b"x", fin=False))
        for _ in range(3):
            connection.protocol.on_ping_due()
            connection.protocol.data_received(frame(CONTINUATION, b"x", fin=False))
        assert handler.told == []

    async def test_a_silent_client_is_closed_when_the_second_ping_is_due(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        connection.protocol.on_ping_due()
        connection.protocol.on_ping_due()
        assert handler.told == ["silent"]
        await turns()
        assert connection.frames()[-1] == (CLOSE, (4101).to_bytes(2, "big"))

    async def test_who_is_not_read_cannot_be_heard(
        self, handler: RecordingHandler, connection: PipeConnection
    ) -> None:
        decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handler.answers = [decided]
        connection.receive(b"one")
        for _ in range(5):
            connection.protocol.on_ping_due()
        assert handler.told == []
        decided.set_result(None)

    async def test_another_application_s_is_closed_too(self) -> None:
        events: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            events.append(await receive())

        connection = PipeConnection(application)
        await connection.open()
        connection.protocol.on_ping_due()
        connection.protocol.on_ping_due()
        await turns()
        assert connection.frames()[-1].payload[:2] == (1011).to_bytes(2, "big")
        assert [event["code"] for event in events] == [1011]

    @pytest.mark.parametrize("timeout", [0.15, 0.05])
    async def test_the_settings_are_uvicorn_s(
        self, handler: RecordingHandler, timeout: float
    ) -> None:
        connection = PipeConnection(
            taking_over(handler), ws_ping_interval=0.05, ws_ping_timeout=timeout
        )
        started = asyncio.get_running_loop().time()
        await connection.open()
        await until(lambda: handler.told == ["silent"])
        assert asyncio.get_running_loop().time() - started >= timeout

    async def test_there_is_none_where_it_is_turned_off(self, handler: RecordingHandler) -> None:
        connection = PipeConnection(taking_over(handler), ws_ping_interval=None)
        await connection.open()
        connection.protocol.on_ping_due()
        connection.protocol.on_ping_due()
        assert handler.told == []
