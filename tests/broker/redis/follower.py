"""A worker, as far as its source can tell: it reads the log from page to page, whatever happens to Redis."""

import asyncio
from contextlib import suppress

from dwsps_channels.broker.redis.source import RedisSource
from dwsps_channels.core.log_source import SourceUnavailable
from dwsps_channels.core.page import Position
from tests.broker.redis.account import Account
from tests.processes import WAIT_TIMEOUT, wait_until_async


class Follower:
    """Reads from the beginning of the log, and keeps the numbers that processes published."""

    def __init__(self, source: RedisSource) -> None:
        self.source = source
        self.position = Position()
        self.numbers: list[int] = []
        """In the order of the log, as often as they were read."""
        self.missed = 0
        self.restarts = -1  # the beginning is one
        self.problems: list[str] = []
        """Why the log could not be read, each time."""
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            try:
                page = await self.source.read(self.position)
            except SourceUnavailable as error:
                self.problems.append(error.problem)
                await asyncio.sleep(0.05)
                continue
            self.numbers += [int(bytes(each.publication.message)) for each in page.entries]
            self.missed += page.missed
            self.restarts += page.restarted
            self.position = page.position

    async def has_all_of(self, account: Account, timeout: float = WAIT_TIMEOUT) -> None:
        """Wait until everything that was acknowledged in the present epoch was read."""
        epoch = account.processes[0].epoch
        wanted = {number for number, (its, _) in account.acknowledged.items() if its == epoch}
        await wait_until_async(
            lambda: wanted <= set(self.numbers), timeout, "all that was acknowledged was read"
        )

    async def fails(self, timeout: float = WAIT_TIMEOUT) -> str:
        """Wait until the log cannot be read, and return why."""
        count = len(self.problems)
        await wait_until_async(lambda: len(self.problems) > count, timeout, "the source complains")
        return self.problems[-1]

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.source.close()
