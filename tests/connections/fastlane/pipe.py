"""A connection without a network: the protocol class on one side, what a client reads on the other."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from dwsps_channels.connections.fastlane.protocol import WebSocketProtocol
from tests.connections.fastlane.raw import RawClient, Received, frame


class Pipe(asyncio.Transport):
    """In place of the event loop's transport. It takes all while the client reads, and nothing while not."""

    HIGH_WATER = 64 * 1024

    def __init__(self) -> None:
        super().__init__()
        self.protocol: WebSocketProtocol
        self.written: list[bytes] = []
        """The bytes that the client has read: one entry for each write."""
        self.is_read = True
        self.broken: Exception | None = None
        self.aborted = self.closing = self.eof = False
        self._is_reading = True
        self._waiting: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.broken is not None:
            raise self.broken
        assert not self.eof, "written after the end"
        self._waiting.append(bytes(data))
        if self.is_read:
            self._deliver()
        else:
            # A kernel that takes nothing, and a loop whose buffer is full at once.
            self.protocol.pause_writing()

    def _deliver(self) -> None:
        self.written += self._waiting
        self._waiting = []

    def read_on(self) -> None:
        self.is_read = True
        self._deliver()
        self.protocol.resume_writing()

    def lose(self) -> None:
        """As the event loop does at its next turn, once."""
        if not self.closing:
            self.closing = True
            self.protocol.connection_lost(None)

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def write_eof(self) -> None:
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._waiting))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(WebSocketProtocol, protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)


class Reading(RawClient):
    """Reads from a pipe what a client would from its socket."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._read = b""
        self._got = 0

    def _more(self) -> None:
        new = self._pipe.written[self._got :]
        if not new:
            raise EOFError
        self._got += len(new)
        self._read += b"".join(new)


class PipeConnection:
    """A client that has connected to ``application``, which is given a scope as by uvicorn."""

    def __init__(self, application: Callable[..., Any], **config: Any) -> None:
        self.state = ServerState()
        loaded = Config(
            application, interface="asgi3", proxy_headers=False, log_config=None, **config
        )
        loaded.load()
        self.pipe = Pipe()
        self.protocol = WebSocketProtocol(loaded, self.state, {})
        self.pipe.protocol = self.protocol
        self.protocol.connection_made(self.pipe)
        self.client = Reading(self.pipe)

    async def open(self) -> None:
        """The opening handshake; answered with 101."""
        self.protocol.data_received(self.client.request("/"))
        while not self.pipe.written:  # noqa: ASYNC110  (whose turn it is is not to be waited for otherwise)
            await asyncio.sleep(0)
        assert self.client.response()[0] == 101

    def receive(self, *messages: bytes) -> None:
        """The client sends text messages, all in one segment."""
        self.protocol.data_received(b"".join(frame(0x1, message) for message in messages))

    def frames(self) -> list[Received]:
        """Return the frames that the client has received since the last call."""
        return list(self.client.frames())
