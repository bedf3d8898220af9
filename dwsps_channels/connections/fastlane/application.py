"""One websocket connection as ASGI sees it: the application's ``receive`` and ``send``."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import quote

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected, get_client_addr

from dwsps_channels.connections.transports.send_buffer import (
    MAX_FRAMES_PER_BATCH,
    SLICE_BYTES,
    SendBuffer,
)
from dwsps_channels.connections.websocket.close import (
    ABNORMAL,
    INTERNAL_ERROR,
    NORMAL,
    SERVICE_RESTART,
)
from dwsps_channels.connections.websocket.handshake import HandshakeRequest, Headers, http_response
from dwsps_channels.connections.websocket.opcodes import BINARY, TEXT
from dwsps_channels.protocol.frames import websocket_frame
from dwsps_channels.protocol.text import printable

# The messages that an application may leave unfetched before its client is not read any more.
INBOX_MESSAGES: Final = 32
INBOX_BYTES: Final = 64 * 1024

# uvicorn's own logger, for what it logs itself: accepted handshakes and failed applications.
logger = logging.getLogger("uvicorn.error")


class ApplicationConnection(Protocol):
    """The connection of an application, as far as the application needs it."""

    config: Config
    send_buffer: SendBuffer

    @property
    def transport(self) -> asyncio.Transport: ...

    def accept(self, response: bytes) -> None: ...

    def refuse(self, response: bytes) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...


class Application:
    """Runs an ASGI application on a connection, until it ends or gives the connection up to a handler."""

    def __init__(
        self,
        connection: ApplicationConnection,
        request: HandshakeRequest,
        scope: Any,
        default_headers: Headers,
    ) -> None:
        self._connection = connection
        self._request: HandshakeRequest | None = request
        self._scope = scope
        self._default_headers = default_headers
        self._response: tuple[int, Headers, list[bytes]] | None = None
        self._is_connected = False
        self.is_accepted = False
        self._is_released = False
        # Set once nothing can be sent any more; given to every further receive.
        self._disconnected: dict[str, Any] | None = None
        # Messages that were not fetched yet, and what is done once all are.
        self._inbox: deque[str | bytes] = deque()
        self._inbox_size = 0
        self._fetched: asyncio.Future[None] | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's own, where code that cuts a client off looks for it, as in uvicorn's protocols."""
        return self._connection.transport

    @property
    def config(self) -> Config:
        """uvicorn's, for code that looks at how it was started."""
        return self._connection.config

    async def run(self, app: Any) -> None:
        """Run ``app``, and end as it should what it leaves open."""
        try:
            result = await app(self._scope, self.receive, self.send)
        except ClientDisconnected:
            pass  # raised by its own send, and it had nothing left to do
        except asyncio.CancelledError:
            self._end(SERVICE_RESTART)
            raise
        except Exception:
            logger.exception("Exception in ASGI application\n")
            self._end(INTERNAL_ERROR)
        else:
            if not self.is_accepted and self._disconnected is None:
                logger.error("ASGI callable returned without completing handshake.")
            elif result is not None:
                logger.error("ASGI callable should return None, but returned '%s'.", result)
            if not self._is_released:
                self._end(NORMAL)
        finally:
            self._scope = None

    def _end(self, code: int) -> None:
        if self._request is not None and self._disconnected is None:
            self._disconnect(ABNORMAL)
            self._connection.refuse(
                http_response(HTTPStatus.INTERNAL_SERVER_ERROR, (), b"Internal Server Error")
            )
        else:
            self._connection.close(code)

    # For the connection

    def take(self, message: str | bytes) -> Awaitable[None] | None:
        """Queue ``message`` for the application. Await what is returned, if anything, before the next message."""
        self._inbox.append(message)
        self._inbox_size += len(message)
        self._wake()
        if len(self._inbox) < INBOX_MESSAGES and self._inbox_size < INBOX_BYTES:
            return None
        self._fetched = asyncio.get_running_loop().create_future()
        return self._fetched

    def release(self) -> Iterable[str | bytes]:
        """Give up the connection and return the messages that were not fetched. The application sees a disconnect."""
        self._is_released = True
        messages, self._inbox = self._inbox, deque()
        self._disconnect(NORMAL)
        return messages

    def disconnected(self, code: int, reason: str = "") -> None:
        """Tell the application that the connection is closing or gone."""
        self._disconnect(code, reason)

    def unblocked(self) -> None:
        """Let a ``send`` that waits for a slow client go on."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _disconnect(self, code: int, reason: str = "") -> None:
        if self._disconnected is None:
            self._disconnected = {
                "type": "websocket.disconnect",
                "code": code,
                "reason": reason,
            }
            self._wake()
            self.unblocked()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # ASGI

    async def receive(self) -> dict[str, Any]:
        if not self._is_connected:
            self._is_connected = True
            return {"type": "websocket.connect"}
        while not self._inbox:
            if self._disconnected is not None:
                return self._disconnected
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        message = self._inbox.popleft()
        self._inbox_size -= len(message)
        if not self._inbox and self._fetched is not None and not self._fetched.done():
            self._fetched.set_result(None)
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, event: Any) -> None:
        while self._connection.send_buffer.blocked and self._disconnected is None:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable
        if self._response is not None:
            self._respond(event)
        elif self._disconnected is not None:
            raise ClientDisconnected
        elif self.is_accepted:
            self._send(event)
        else:
            self._open(event)

    def _open(self, event: Any) -> None:
        assert self._request is not None
        match event["type"]:
            case "websocket.accept":
                headers = [*self._default_headers, *_plain(event.get("headers"))]
                response = self._request.accept(headers, event.get("subprotocol"))
                self._log("[accepted]")
                self.is_accepted = True
                self._request = None
                self._connection.accept(response)
            case "websocket.close":
                self._log("403")
                self._disconnect(ABNORMAL)
                self._connection.refuse(http_response(HTTPStatus.FORBIDDEN))
            case "websocket.http.response.start":
                status = event["status"]
                if not 200 <= status < 600:
                    raise RuntimeError(f"Invalid HTTP status code '{status}' in response.")
                self._log(str(status))
                self._response = status, _plain(event.get("headers")), []
            case other:
                raise RuntimeError(
                    "Expected ASGI message 'websocket.accept', 'websocket.close' "
                    f"or 'websocket.http.response.start' but got '{other}'."
                )

    def _respond(self, event: Any) -> None:
        assert self._response is not None
        if event["type"] != "websocket.http.response.body":
            raise RuntimeError(
                f"Expected ASGI message 'websocket.http.response.body' but got '{event['type']}'."
            )
        if self._disconnected is not None:
            raise ClientDisconnected
        status, headers, body = self._response
        body.append(event.get("body", b""))
        if not event.get("more_body", False):
            self._disconnect(ABNORMAL)
            self._connection.refuse(http_response(status, headers, b"".join(body)))

    def _send(self, event: Any) -> None:
        match event["type"]:
            case "websocket.send":
                data = event.get("bytes")
                if data is not None:
                    frame = websocket_frame(BINARY, bytes(data))
                else:
                    frame = websocket_frame(TEXT, event["text"].encode())
                send_buffer = self._connection.send_buffer
                send_buffer.write_frame(frame)
                # An application that sends without end must come to wait for its client.
                if len(send_buffer.pending) >= MAX_FRAMES_PER_BATCH or len(frame) >= SLICE_BYTES:
                    send_buffer.flush()
            case "websocket.close":
                code = event.get("code", NORMAL)
                reason = event.get("reason") or ""
                self._disconnect(code, reason)
                self._connection.close(code, reason)
            case other:
                raise RuntimeError(
                    f"Expected ASGI message 'websocket.send' or 'websocket.close', but got '{other}'."
                )

    def _log(self, outcome: str) -> None:
        if logger.isEnabledFor(logging.INFO):
            # Without the query, where a peer's secret may be.
            path = printable(quote(self._scope["path"]))
            client = printable(get_client_addr(self._scope), 64)
            logger.info('%s - "WebSocket %s" %s', client, path, outcome)


def _plain(headers: Any) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in headers or ()]
