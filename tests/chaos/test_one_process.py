"""A process that is the whole server ends under load: its log ends with it, and every client is told so."""

import asyncio

from tests.chaos.traffic import traffic
from tests.processes import ServerFactory


async def test_the_log_ends_with_the_process(server_kind: str, start_server: ServerFactory) -> None:
    server = start_server(server_kind)
    async with traffic([server]) as flowing:
        for end in (server.kill, server.terminate):
            resets = len(flowing.resets)
            await asyncio.to_thread(end)
            await asyncio.to_thread(server.start)
            await flowing.flows()
            assert len(flowing.resets) > resets, "its log ends with it, and that is told"
