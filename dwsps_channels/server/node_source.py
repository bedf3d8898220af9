"""The log as this process has it, for a worker that runs in the same process."""

import asyncio
from collections.abc import Awaitable, Callable

from dwsps_channels.core.log_source import PAGE_BYTES, PAGE_MESSAGES, WAIT, LogSource
from dwsps_channels.core.node import Node
from dwsps_channels.core.page import Page, Position


class NodeSource:
    """Reads from a node's tail, without a connection; what is older comes from ``older``, if the broker's log has it.

    See ``LogSource``.
    """

    def __init__(self, node: Callable[[], Awaitable[Node]], older: LogSource | None = None) -> None:
        """Read from what ``node`` gives, on the loop that the node runs on. Close ``older`` with this source."""
        self._node = node
        self._older = older

    async def read(
        self, position: Position, *, messages: int = PAGE_MESSAGES, size: int = PAGE_BYTES
    ) -> Page:
        """Return what follows ``position``: see ``LogSource.read``."""
        node = await self._node()
        page = node.page(position, messages, size)
        if not _says_something(page):
            await _next_append(node)
            page = node.page(position, messages, size)
        if self._older is not None and (page.missed or page.restarted):
            return await self._older.read(position, messages=messages, size=size)
        return page

    async def close(self) -> None:
        """Close the source of what is older."""
        if self._older is not None:
            await self._older.close()


def _says_something(page: Page) -> bool:
    return bool(page.entries or page.missed or page.restarted)


async def _next_append(node: Node) -> None:
    """Wait for the next publication, or for so long as a read waits."""
    appended = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not appended.done():
            appended.set_result(None)

    node.wait(wake)
    try:
        await asyncio.wait([appended], timeout=WAIT)
    finally:
        node.stop_waiting(wake)
