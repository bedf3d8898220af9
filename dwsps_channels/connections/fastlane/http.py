"""uvicorn's HTTP protocol with bounds: what a client may send before an application sees anything of it.

uvicorn on httptools accepts a head of any size, and has no time limit for a head or a body.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NoReturn

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dwsps_channels.connections.transports.closing import LINGER_TIMEOUT
from dwsps_channels.connections.websocket.handshake import http_response

# Request line and headers, as nginx and h11 bound them by default, within a factor of two.
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 100

# How many requests may wait for the answers to those before them. uvicorn stops reading at the first, but takes all that have
# come with it: many thousands within one chunk.
MAX_PIPELINED: Final = 16

# From the connection to the end of the first request's head, and from the beginning of each further one to its end.
HEAD_TIMEOUT = 10.0
# A body has as long, and a second more for each of these.
BODY_BYTES_PER_SECOND: Final = 500

# What a client that is refused may go on sending before it is cut off. To throw it away costs little, and only a client
# that is not cut off reads why it was refused. A request has a body; a websocket connection, for which
# ``protocol.LINGER_BYTES`` is less, has none.
LINGER_BYTES: Final = 16 * 1024 * 1024

logger = logging.getLogger("uvicorn.error")

_LARGE_HEAD: Final = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"a request's head may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers",
)
_LONG_PIPELINE: Final = (
    HTTPStatus.TOO_MANY_REQUESTS,
    f"{MAX_PIPELINED} requests of one connection may wait",
)


class HttpProtocol(HttpToolsProtocol):
    """Answers 431 to a head that is too large, and 408 to a request that does not end."""

    # None before the first request, although uvicorn's types do not say so.
    scope: Any
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The bytes and the headers that the parser has reported of the current head.
        self._head_bytes = 0
        self._head_count = 0
        # The bytes that came since the parser last reported progress.
        self._unreported = 0
        # The time at which the current request began, and the bytes of its body so far.
        self._since = 0.0
        self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        # The status and the reason of a refusal that a callback of the parser has decided on.
        self._fault: tuple[HTTPStatus, str] | None = None
        # The bytes thrown away since a request was refused; None before.
        self._discarded: int | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._receive_in_time()

    def end_head_by(self, time: float) -> None:
        """Expect the first head to be complete at ``time``, by the loop's clock: the connection is older than this object."""
        self._since = time - HEAD_TIMEOUT
        self._call_in(max(0.0, time - self.loop.time()), self._on_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discarded is not None:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.transport.abort()
            return
        self._unreported += len(data)
        if self.timeout_keep_alive_task is not None:
            # Whatever comes ends uvicorn's own timer, a line break before the next request as well.
            self._receive_in_time()
        super().data_received(data)
        if self._unreported > MAX_HEAD_BYTES and self._discarded is None:
            self._refuse(*_LARGE_HEAD)

    # uvicorn

    def send_400_response(self, msg: str) -> None:
        """Answer a request with which the parser, or a callback below, has found fault."""
        if self._fault is not None:
            self._refuse(*self._fault)
        else:
            super().send_400_response(msg)

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade()
        # It refers to this protocol, which would stay with the connection until the garbage collector finds both.
        self.parser = None  # type: ignore[assignment]

    # httptools

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if len(self.pipeline) >= MAX_PIPELINED:
            self._find_fault(_LONG_PIPELINE)
        self._unreported = self._head_bytes = self._head_count = 0
        if self._timer is None:  # it came together with the one before
            self._receive_in_time()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_count += 1
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unreported = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unreported = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unreported = 0
        self._stop_timer()
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or self._head_count > MAX_HEADERS:
            self._find_fault(_LARGE_HEAD)

    # What is refused

    def _find_fault(self, fault: tuple[HTTPStatus, str]) -> NoReturn:
        """End the parser from a callback of it. It comes back by ``send_400_response``."""
        self._fault = fault
        raise ValueError(fault[1])

    def _on_late(self) -> None:
        left = self._since + HEAD_TIMEOUT + self._body_bytes / BODY_BYTES_PER_SECOND
        left -= self.loop.time()
        if self.flow.read_paused:
            # The application has not taken what is here yet, and the client cannot go on.
            self._receive_in_time()
        elif left > 0:
            self._call_in(left, self._on_late)
        elif self.scope is None:
            # Nothing has come: a browser that connects ahead of time expects no answer.
            self.transport.close()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not come to its end in time")

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer the request with ``status``, if that can be done, and end the connection."""
        logger.info("HTTP request refused: %s", reason)
        self._discarded = 0
        self._call_in(LINGER_TIMEOUT, self.transport.abort)
        transport, cycle = self.transport, self.cycle
        if cycle is None:
            is_free = True
        elif self.pipeline:  # others are to be answered first
            is_free = False
        elif cycle.scope is self.scope:
            is_free = not cycle.response_started
        else:  # that of the request before
            is_free = cycle.response_complete
        if cycle is not None and not cycle.response_complete:
            # The application learns that its client is gone.
            cycle.disconnected = True
            cycle.message_event.set()
        if is_free:
            transport.write(http_response(status, (), reason.encode()))
        if is_free and transport.can_write_eof():
            transport.write_eof()
            self.flow.resume_reading()
        else:
            transport.close()

    # The timer: one at a time

    def _receive_in_time(self) -> None:
        self._since, self._body_bytes = self.loop.time(), 0
        self._call_in(HEAD_TIMEOUT, self._on_late)

    def _call_in(self, seconds: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
