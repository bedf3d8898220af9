"""Servers that do as a test says: on real sockets, in the test's own event loop."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.processes import HOST, free_port

NOW = "2026-01-02T03:04:05.678Z"

Frame = dict[str, Any]
IGNORE: Frame = {}
"""The return value of ``decide`` for a frame that gets no answer."""


class ScriptedServer:
    """Speaks docs/reference/protocol.md as far as a client sees it, but for what a test decides.

    With ``old`` it answers as dwsps 1.0.1 does: no ids, no errors, and whatever a publish holds is relayed.
    """

    def __init__(self, *, old: bool = False) -> None:
        self.old = old
        self.port = free_port()
        self.frames: list[Frame] = []
        """All that came in, over all connections."""
        self.requests: list[Request] = []
        """The handshakes."""
        self.sessions: dict[ServerConnection, set[str]] = {}
        self.decide: Callable[[Frame], Frame | None] = lambda frame: None
        """``{code, reason, retryable}`` refuses a frame, ``IGNORE`` drops it, ``None`` is no objection."""
        self.welcome: Callable[[ServerConnection], Any] | None = None
        """Awaited with each new connection, before it is served."""
        self.answer: Callable[[Request], Response | None] = lambda request: None
        """A response in place of the handshake."""
        self.held: list[Callable[[], Any]] | None = None
        """Where it is a list, acks are put there, to be awaited by the test."""
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}/ws/"

    async def start(self) -> Self:
        """Listen; on the same port after ``kill``."""
        self._server = await serve(
            self._serve,
            HOST,
            self.port,
            compression=None,
            ping_interval=None,
            process_request=self._process,
            close_timeout=1,
        )
        return self

    async def kill(self) -> None:
        """Die as a process does: no closing handshake."""
        assert self._server is not None
        self._server.close(close_connections=False)
        self.cut()
        await self._server.wait_closed()
        self._server = None

    async def stop(self) -> None:
        if self._server is not None:
            await self.kill()

    def cut(self) -> None:
        """Break every connection, and go on listening."""
        for session in self.sessions:
            session.transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        """Close every connection."""
        await asyncio.gather(*(session.close(code, reason) for session in list(self.sessions)))

    @property
    def topics(self) -> list[str]:
        """The topics that sessions are subscribed to."""
        return sorted(topic for topics in self.sessions.values() for topic in topics)

    def sent(self, type: str) -> list[Frame]:
        """The frames of a type that came in."""
        return [frame for frame in self.frames if frame["type"] == type]

    async def broadcast(self, frame: Frame | bytes | str) -> None:
        for session in list(self.sessions):
            await self._send(session, frame)

    async def deliver(self, topic: str, message: Any, fields: Frame | None = None) -> None:
        """As if somebody had published it."""
        levels = topic.split(".")
        for depth in range(len(levels), 0, -1):
            context = ".".join(levels[:depth])
            delivery = {"type": "publish", "timestamp": NOW, "topic": topic, "message": message}
            for session, topics in list(self.sessions.items()):
                if context in topics:
                    await self._send(session, delivery | (fields or {}) | {"context": context})

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        return self.answer(request)

    async def _serve(self, session: ServerConnection) -> None:
        self.sessions[session] = set()
        try:
            if self.welcome is not None:
                await self.welcome(session)
            async for data in session:
                await self._handle(session, json.loads(data))
        except ConnectionClosed:
            pass
        finally:
            del self.sessions[session]

    async def _handle(self, session: ServerConnection, frame: Frame) -> None:
        self.frames.append(frame)
        action, topic = frame["type"], frame.get("topic", "")
        answer: Frame = {"timestamp": NOW, "action": action}
        if topic:
            answer["topic"] = topic
        if not self.old:
            answer["id"] = frame["id"]
        decision = self.decide(frame)
        if decision is not None:
            if decision is not IGNORE:
                await self._send(
                    session, {"type": "error", "retryable": False, **answer, **decision}
                )
            return
        match action:
            case "subscribe":
                self.sessions[session].add(topic)
            case "unsubscribe":
                self.sessions[session].discard(topic)
            case "publish":
                kept = [key for key in frame if self.old or key == "timestamp"]
                await self.deliver(topic, frame["message"], {key: frame[key] for key in kept})

        async def acknowledge() -> None:
            await self._send(session, {"type": "ack", **answer})

        if self.held is None:
            await acknowledge()
        else:
            self.held.append(acknowledge)

    async def _send(self, session: ServerConnection, frame: Frame | bytes | str) -> None:
        with suppress(ConnectionClosed):
            await session.send(json.dumps(frame) if isinstance(frame, dict) else frame)


def response(status: HTTPStatus, **headers: str) -> Response:
    """An answer to a handshake that opens nothing."""
    return Response(status, status.phrase, Headers({**headers, "Connection": "close"}), b"")
