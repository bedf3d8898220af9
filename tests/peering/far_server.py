"""The server at the far end of a link, as a test scripts it."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.processes import HOST, free_port

SERVER_ID = "f" * 32

Frame = dict[str, Any]

# What the far end logs is its own affair: the secret, for one.
_logger = logging.Logger("far", logging.CRITICAL)


class FarServer:
    """Acknowledges in order what it is forwarded; with ``old`` as dwsps 1.0.1 does: no hello, no ids.

    Set ``status`` to refuse handshakes, ``answer`` to have other answers, ``greeting`` to be greeted otherwise.
    """

    def __init__(self, *, old: bool = False) -> None:
        self.old = old
        self.port = free_port()
        self.status: HTTPStatus | None = None
        self.greeting: Frame | str | None = (
            None
            if old
            else {"type": "hello", "server": "far", "server_id": SERVER_ID, "version": "1"}
        )
        self.answer: Callable[[Frame], Frame | str | bytes | None] = self.ack
        """The answer to a frame; ``None``: no answer."""
        self.requests: list[Request] = []
        self.frames: list[Frame] = []
        """All that came in, over all connections."""
        self.connections: list[list[Frame]] = []
        """The frames of each connection, that of the first one first."""
        self.sessions: list[ServerConnection] = []
        """The connections that are open."""
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}/ws/"

    @property
    def numbers(self) -> list[int]:
        return [frame["id"] for frame in self.frames]

    def has_got(self, number: int) -> bool:
        """Return whether this was the last one so far."""
        return self.numbers[-1:] == [number]

    def ack(self, frame: Frame) -> Frame:
        ack = {"type": "ack", "action": "publish", "topic": frame["topic"], "timestamp": "now"}
        return ack if self.old else ack | {"id": frame["id"]}

    async def start(self) -> Self:
        self._server = await serve(
            self._serve,
            HOST,
            self.port,
            compression=None,
            ping_interval=None,
            process_request=self._process,
            close_timeout=1,
            logger=_logger,
        )
        return self

    async def stop(self) -> None:
        """Die as a process does: no closing handshake."""
        if self._server is not None:
            self._server.close(close_connections=False)
            self.cut()
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Break every connection, and go on listening."""
        for session in self.sessions:
            session.transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        await asyncio.gather(*(session.close(code, reason) for session in list(self.sessions)))

    async def say(self, frame: Frame | str | bytes) -> None:
        """Unasked, to everybody."""
        for session in list(self.sessions):
            await _send(session, frame)

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if self.status is None:
            return None
        headers = Headers({"Connection": "close"})
        return Response(self.status, self.status.phrase, headers, b"")

    async def _serve(self, session: ServerConnection) -> None:
        self.sessions.append(session)
        received: list[Frame] = []
        self.connections.append(received)
        try:
            if self.greeting is not None:
                await _send(session, self.greeting)
            async for data in session:
                frame = json.loads(data)
                self.frames.append(frame)
                received.append(frame)
                if (answer := self.answer(frame)) is not None:
                    await _send(session, answer)
        except ConnectionClosed:
            pass
        finally:
            self.sessions.remove(session)


async def _send(session: ServerConnection, frame: Frame | str | bytes) -> None:
    with suppress(ConnectionClosed):
        await session.send(json.dumps(frame) if isinstance(frame, dict) else frame)
