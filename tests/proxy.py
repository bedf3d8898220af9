"""A TCP proxy that can stop carrying, without a word to either side, or break connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK = 64 * 1024


class Proxy:
    """Carries what comes in on ``port`` to the port ``target``, as long as it is not ``cut``."""

    def __init__(self, target: int) -> None:
        self.target = target
        """Of new connections."""
        self.delay = 0.0
        """Seconds that data take, in each direction."""
        self._cut = False
        self._flows = asyncio.Event()  # from the target to clients
        self._flows.set()
        self._clients: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.accepted = 0
        """The number of connections so far."""

    def cut(self) -> None:
        """From now on swallow what either side sends; nobody is told, and new connections are swallowed, too."""
        self._cut = True

    def mend(self) -> None:
        """Carry new connections again. Those that were cut stay so: what they lost cannot be made up for."""
        self._cut = False

    def hold(self) -> None:
        """Stop reading from the target. Clients' frames still reach it."""
        self._flows.clear()

    def flow(self) -> None:
        """Read from the target again."""
        self._flows.set()

    def drop(self) -> None:
        """Break every connection, and go on accepting."""
        for client in self._clients:
            client.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._cut:
            await _swallow(reader)
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._clients.add(writer)
        always = asyncio.Event()
        always.set()
        try:
            await asyncio.gather(
                self._carry(reader, far_writer, always),
                self._carry(far_reader, writer, self._flows),
            )
        finally:
            self._clients.discard(writer)
            writer.close()
            far_writer.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event
    ) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        with suppress(OSError):
            while data := await _read(reader, flows):
                if self._cut:
                    await _swallow(reader)
                    return
                if self.delay:
                    # Timers of the same moment have no order.
                    due = max(due + 1e-6, loop.time() + self.delay)
                    loop.call_at(due, _write, writer, data)
                else:
                    writer.write(data)
                    await writer.drain()
        # An end is passed on, too, but not by who was cut.
        await asyncio.sleep(max(0.0, due - loop.time()))
        writer.close()


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)


async def _read(reader: asyncio.StreamReader, flows: asyncio.Event) -> bytes:
    await flows.wait()
    return await reader.read(CHUNK)


async def _swallow(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(CHUNK):
            pass


@asynccontextmanager
async def proxy_to(target: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            await proxy.serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
