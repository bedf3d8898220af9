"""The first bytes of a connection: a websocket handshake is read here, any other request by ``HttpProtocol``.

After a restart thousands of clients open a connection at once. To parse their requests by HTTP, and pass them on to a
protocol that parses them again, takes a third of the time that they cost the server.
"""

import asyncio
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from dwsps_channels.connections.fastlane import http
from dwsps_channels.connections.fastlane.http import HttpProtocol
from dwsps_channels.connections.fastlane.protocol import WebSocketProtocol
from dwsps_channels.connections.websocket.handshake import (
    HandshakeRejected,
    HandshakeRequest,
    is_plain,
)


class OpeningProtocol(asyncio.Protocol):
    """For uvicorn's ``--http``: hands a connection over to ``WebSocketProtocol`` or ``HttpProtocol`` once something comes."""

    __slots__ = ("_app_state", "_config", "_loop", "_server_state", "_timer", "_transport")

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # A browser that connects ahead of time expects no answer.
        self._timer = self._loop.call_later(http.HEAD_TIMEOUT, transport.close)
        cast(set[object], self._server_state.connections).add(self)

    def data_received(self, data: bytes) -> None:
        self._leave()
        transport = self._transport
        arguments = self._config, self._server_state, self._app_state, self._loop
        if (request := self._handshake_in(data)) is not None:
            websocket = WebSocketProtocol(*arguments)
            transport.set_protocol(websocket)
            websocket.connection_made(transport)
            websocket.open(request)
        else:
            protocol = HttpProtocol(*arguments)
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            protocol.end_head_by(self._timer.when())
            protocol.data_received(data)

    def eof_received(self) -> None:
        """Do nothing: the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    # uvicorn

    def shutdown(self) -> None:
        """Close the connection: the server is going away."""
        self._transport.close()

    # Itself

    def _leave(self) -> None:
        self._timer.cancel()
        cast(set[object], self._server_state.connections).discard(self)

    def _handshake_in(self, data: bytes) -> HandshakeRequest | None:
        """Return the request in ``data``, if it opens a websocket connection of ours and nothing about it is unusual."""
        is_ours = self._config.ws_protocol_class is WebSocketProtocol
        if not is_ours or len(data) > http.MAX_HEAD_BYTES or not is_plain(data):
            return None
        try:
            request = HandshakeRequest(data)
        except HandshakeRejected:
            return None
        return request if len(request.headers) <= http.MAX_HEADERS else None
