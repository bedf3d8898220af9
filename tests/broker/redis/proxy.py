"""A network between a process and Redis that does on demand what a real one does on a bad day."""

import asyncio
from contextlib import suppress
from typing import Self

from tests.processes import HOST


class Proxy:
    """Forwards connections to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_cut = False
        self._replaced: tuple[bytes, bytes] | None = None
        self._server: asyncio.Server | None = None
        self.port = 0
        """The port to connect to."""

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def hold(self) -> None:
        """Keep back what comes, on connections that stay open."""
        self._flowing.clear()

    def cut(self) -> None:
        """Close all connections, drop what was kept back, and take no further ones."""
        self._is_cut = True
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()

    def restore(self) -> None:
        """Undo both."""
        self._is_cut = False
        self._flowing.set()

    def replace(self, beginning: bytes, data: bytes) -> None:
        """Send ``data`` instead of the next reply of Redis that begins so."""
        self._replaced = beginning, data

    @property
    def has_replaced(self) -> bool:
        return self._replaced is None

    async def stop(self) -> None:
        self.cut()
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._is_cut:
                return
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
            self._writers.add(far_writer)
            there = asyncio.create_task(self._forward(reader, far_writer))
            back = asyncio.create_task(self._forward(far_reader, writer))
            self._tasks |= {there, back}
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            for task in (there, back):
                task.cancel()
            await asyncio.wait([there, back])
            self._tasks -= {there, back}
            far_writer.transport.abort()
            self._writers.discard(far_writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                # Perhaps behind another reply.
                if self._replaced is not None and (at := data.find(self._replaced[0])) >= 0:
                    data, self._replaced = data[:at] + self._replaced[1], None
                writer.write(data)
                await writer.drain()
