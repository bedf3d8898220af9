"""The log of a server, read over its websocket: the server feed passes the suite of all sources."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.log import Log
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.core.publication import Publication
from dwsps_channels.peering.outbound.server_feed import ServerFeed
from tests.core.recording import Client, World
from tests.processes import HOST, free_port
from tests.sources.contract import RemoteSourceContract, ServerLog


class ServedLog(ServerLog):
    """The log of a node, with a session of a worker for each connection. The node's broker is the test."""

    def __init__(self) -> None:
        self.world = World()
        self.world.node.begin(Log("one"))
        self.port = free_port()
        self._published: list[tuple[int, Publication]] = []
        self._offset = 0
        self._server: Server | None = None
        self._sessions: dict[ServerConnection, Client] = {}
        self._writing = asyncio.Lock()

    def make_source(self) -> LogSource:
        return ServerFeed(f"ws://{HOST}:{self.port}/", lambda: "signed")

    async def publish(self, publication: Publication) -> int:
        self._offset += 1
        self._published.append((self._offset, publication))
        self.world.node.receive(publication, self._offset)
        await self._write()
        return self._offset

    async def forget(self, offset: int) -> None:
        kept = [each for each in self._published if each[0] > offset]
        self.world.node.begin(Log(self.world.node.epoch, self._offset, offset, kept))
        await self._write()

    async def begin_again(self) -> None:
        self._offset, self._published = 0, []
        self.world.node.begin(Log("two"))
        await self._write()

    async def sever(self) -> None:
        assert self._server is not None
        self._server.close(close_connections=False)
        for connection in list(self._sessions):
            connection.transport.abort()
        await self._server.wait_closed()

    async def mend(self) -> None:
        self._server = await serve(self._serve, HOST, self.port, compression=None)

    async def _serve(self, connection: ServerConnection) -> None:
        session = self.world.connect(identity=Identity("worker", role=Role.WORKER))
        self._sessions[connection] = session
        with suppress(ConnectionClosed):
            async for frame in connection:
                session.session.receive(frame)
                await self._write()
        del self._sessions[connection]
        session.session.closed()

    async def _write(self) -> None:
        async with self._writing:
            for connection, session in list(self._sessions.items()):
                frames = list(session.transport.frames)
                session.transport.frames.clear()
                with suppress(ConnectionClosed):
                    for frame in frames:
                        await connection.send(frame.data, text=True)


class TestServerFeed(RemoteSourceContract):
    @pytest.fixture
    async def log(self) -> AsyncIterator[ServerLog]:
        log = ServedLog()
        await log.mend()
        yield log
        await log.sever()
