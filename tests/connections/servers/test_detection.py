"""Finding the server's connection beneath a ``send``, and using it."""

import asyncio
import logging
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import uvicorn
from channels.routing import URLRouter
from channels.sessions import SessionMiddlewareStack
from daphne.server import Server as Daphne
from daphne.ws_protocol import WebSocketProtocol as DaphneProtocol
from django.urls import path
from twisted.internet.testing import StringTransport
from uvicorn.server import ServerState

from dwsps_channels.connections.servers import detection
from dwsps_channels.connections.servers.daphne import DaphneConnection, DaphneTransport
from dwsps_channels.connections.servers.detection import connection_of, transport_on
from dwsps_channels.connections.servers.uvicorn import UvicornConnection
from dwsps_channels.connections.transports.asgi import AsgiTransport
from dwsps_channels.connections.transports.batch_writer import BatchWriter
from dwsps_channels.connections.transports.server_connection import ServerConnection

Send = Callable[..., Any]


class ClientTransport(asyncio.Transport):
    """Uvicorn's side of a client's socket."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        pass


async def application(scope: Any, receive: Any, send: Any) -> None:
    pass


def daphnes_send() -> Send:
    """As Daphne makes it for an application."""
    protocol = DaphneProtocol()
    protocol.transport = twisted_transport()
    return partial(Daphne(application, ["unix:unused"]).handle_reply, protocol)


def twisted_transport() -> Any:
    transport: Any = StringTransport()  # type: ignore[no-untyped-call]
    transport.registerProducer(object(), True)  # the HTTP channel, left from the handshake
    return transport


def uvicorns_send(kind: str) -> Send:
    config, state = uvicorn.Config(application), ServerState()
    with warnings.catch_warnings():
        # One of the two uses what websockets and uvicorn are about to drop.
        warnings.simplefilter("ignore")
        module: Any = import_module(f"uvicorn.protocols.websockets.{kind}")
        if kind == "websockets_impl":
            protocol = module.WebSocketProtocol(config=config, server_state=state, app_state={})
            send: Send = protocol.asgi_send
        else:
            protocol = module.WebSocketsSansIOProtocol(
                config=config, server_state=state, app_state={}
            )
            send = protocol.send
    protocol.transport = ClientTransport()
    return send


# What stands between a server and an application.


def as_it_is(send: Send) -> Send:
    return send


def in_a_function(send: Send) -> Send:
    async def logged(event: Any) -> None:
        await send(event)

    return logged


def in_a_function_that_refers_to_itself(send: Send) -> Send:
    async def again(event: Any) -> None:
        await (again if event is None else send)(event)

    return again


def in_a_partial(send: Send) -> Send:
    async def stamped(mark: str, inner: Send, event: Any) -> None:
        await inner(event | {"mark": mark})

    return partial(stamped, "mark", send)


def in_a_partial_by_name(send: Send) -> Send:
    async def stamped(event: Any, *, inner: Send) -> None:
        await inner(event)

    return partial(stamped, inner=send)


class Counting:
    def __init__(self, send: Send) -> None:
        self.inner = send
        self.count = 0

    async def send(self, event: Any) -> None:
        self.count += 1
        await self.inner(event)

    async def __call__(self, event: Any) -> None:
        await self.send(event)


def in_a_bound_method(send: Send) -> Send:
    return Counting(send).send


def in_an_object(send: Send) -> Send:
    return Counting(send)


def in_channels_own(send: Send) -> Send:
    """The cookie, session and routing middleware of Channels, as a project stacks them."""
    inner: list[Send] = []

    async def consumer(scope: Any, receive: Any, send: Any) -> None:
        inner.append(send)

    stack: Any = SessionMiddlewareStack(URLRouter([path("ws/", consumer)]))  # type: ignore[list-item, arg-type]
    coroutine = stack({"type": "websocket", "path": "/ws/", "headers": []}, None, send)
    with pytest.raises(StopIteration):
        coroutine.send(None)  # nothing in it waits
    return inner[0]


def in_ten(send: Send) -> Send:
    for wrap in 2 * (in_a_function, in_a_partial, in_a_bound_method, in_an_object, in_channels_own):
        send = wrap(send)
    return send


MIDDLEWARE = [
    as_it_is,
    in_a_function,
    in_a_function_that_refers_to_itself,
    in_a_partial,
    in_a_partial_by_name,
    in_a_bound_method,
    in_an_object,
    in_channels_own,
    in_ten,
]


class TestConnectionOf:
    @pytest.fixture(autouse=True)
    def not_warned(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(detection, "_warned", False)

    @pytest.mark.parametrize("wrapped", MIDDLEWARE)
    async def test_daphnes_is_found(self, wrapped: Callable[[Send], Send]) -> None:
        send = daphnes_send()
        connection = connection_of(wrapped(send))
        assert isinstance(connection, DaphneConnection)
        connection.pause_reading()
        assert send.args[0].transport.producerState == "paused"  # type: ignore[attr-defined]

    @pytest.mark.parametrize("wrapped", MIDDLEWARE)
    @pytest.mark.parametrize("kind", ["websockets_impl", "websockets_sansio_impl"])
    async def test_uvicorns_is_found(self, wrapped: Callable[[Send], Send], kind: str) -> None:
        send = uvicorns_send(kind)
        connection = connection_of(wrapped(send))
        assert isinstance(connection, UvicornConnection)
        connection.abort()
        assert send.__self__.transport.aborted  # type: ignore[attr-defined]

    @pytest.mark.parametrize("wrapped", MIDDLEWARE)
    async def test_an_unknown_server_is_left_alone(self, wrapped: Callable[[Send], Send]) -> None:
        connection = connection_of(wrapped(asyncio.Queue[Any]().put))
        assert type(connection) is ServerConnection
        assert connection.writable() is None
        connection.pause_reading()
        connection.resume_reading()
        connection.release()
        connection.abort()

    async def test_it_is_told_of_once(self, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(3):
            connection_of(asyncio.Queue[Any]().put)
        [record] = caplog.records
        assert (record.name, record.levelno) == ("dwsps_channels.servers", logging.WARNING)
        assert "neither Daphne nor uvicorn" in record.getMessage()

    async def test_a_known_one_is_not(self, caplog: pytest.LogCaptureFixture) -> None:
        connection_of(uvicorns_send("websockets_sansio_impl"))
        connection_of(daphnes_send())
        assert caplog.records == []

    @pytest.mark.parametrize("middleware", MIDDLEWARE)
    async def test_nobody_but_channels_own_is_passed_by(
        self, middleware: Callable[[Send], Send]
    ) -> None:
        send = middleware(daphnes_send())
        connection = connection_of(send)
        assert isinstance(connection, DaphneConnection)
        batch_writer = BatchWriter(asyncio.get_running_loop())

        transport = transport_on(
            connection, send, batch_writer, 1000, lambda: None, lambda is_behind: None
        )

        is_bare = middleware in (as_it_is, in_channels_own)
        assert type(transport) is (DaphneTransport if is_bare else AsgiTransport)

    async def test_a_search_without_end_is_given_up(self) -> None:
        send = uvicorns_send("websockets_sansio_impl")
        for _ in range(10_000):
            send = Counting(send)
        assert type(connection_of(send)) is ServerConnection
