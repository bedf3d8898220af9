"""An account of all that was published and received on one server: nothing may be lost, doubled or out of order in silence."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from dwsps_channels.broker.redis.broker import UNKNOWN, RedisBroker
from dwsps_channels.broker.sending.tasks import end
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol.errors import Unavailable
from tests.broker.contract import Member, publication
from tests.processes import WAIT_TIMEOUT, wait_until_async


class Process(Member):
    """A process of the server. It keeps by epoch what it was handed over."""

    broker: RedisBroker

    def __init__(self, broker: RedisBroker) -> None:
        super().__init__(broker)
        self.stretches: list[tuple[str, int, list[tuple[int, int]]]] = []
        """From each ``begin`` on: the epoch, the offset, and the offsets and numbers that followed."""

    def begin(self, log: Log) -> None:
        super().begin(log)
        self.stretches.append((log.epoch, log.offset, []))

    def receive(self, publication: Publication, offset: int | None) -> None:
        super().receive(publication, offset)
        assert offset is not None
        self.stretches[-1][2].append((offset, int(bytes(publication.message))))

    async def vanish(self) -> None:
        """End as a crash does: nothing is said to Redis."""
        await end(self.broker._keeper)
        self.broker.connected = False

    @property
    def epoch(self) -> str:
        return self.stretches[-1][0] if self.stretches else ""


class Account:
    """Processes that publish numbers all the time, each number once."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.acknowledged: dict[int, tuple[str, int]] = {}
        """Number to epoch and offset."""
        self.refused: set[int] = set()
        self.unknown: set[int] = set()
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def add(self, broker: RedisBroker) -> Process:
        """Start a process."""
        process = Process(broker)
        self.processes.append(process)
        await process.start()
        return process

    def talk(self, process: Process, at_once: int = 4) -> None:
        """Have a process publish without end."""
        self._tasks += [asyncio.create_task(self._talk(process)) for _ in range(at_once)]

    async def _talk(self, process: Process) -> None:
        while True:
            await self.publish(process)
            await asyncio.sleep(0.01)

    async def publish(self, process: Process) -> int:
        """Publish a number, and note what became of it."""
        self._number = number = self._number + 1
        try:
            offset = await process.publish(publication(number))
        except Unavailable as error:
            (self.unknown if error.problem == UNKNOWN else self.refused).add(number)
        else:
            assert offset is not None
            self.acknowledged[number] = process.epoch, offset
        return number

    async def goes_on(self, *processes: Process, timeout: float = WAIT_TIMEOUT) -> None:
        """Wait until each process receives what each of those that are given publishes from now on."""
        for publisher in processes or self.processes:
            number = 0
            async with asyncio.timeout(timeout):
                while number not in self.acknowledged:
                    number = await self.publish(publisher)
                    await asyncio.sleep(0.01)
            for process in processes or self.processes:
                await wait_until_async(has(process, number), timeout, "all received it")

    async def hush(self) -> None:
        """Publish no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def stop(self) -> None:
        await self.hush()
        for process in self.processes:
            await process.broker.stop()

    def check(self) -> None:
        """Check that all processes had the same log in each epoch, and that what publishers were told is true."""
        logs: dict[str, dict[int, int]] = {}
        for process in self.processes:
            for log in process.logs:
                kept = logs.setdefault(log.epoch, {})
                for offset, each in log.publications:
                    number = int(bytes(each.message))
                    assert kept.setdefault(offset, number) == number, "two messages have one offset"
            for epoch, _, stretch in process.stretches:
                kept = logs.setdefault(epoch, {})
                for offset, number in stretch:
                    assert kept.setdefault(offset, number) == number, "two messages have one offset"
        for epoch, kept in logs.items():
            numbers = list(kept.values())
            assert len(numbers) == len(set(numbers)), "a message has two offsets"
            for process in self.processes:
                for its_epoch, begin, stretch in process.stretches:
                    if its_epoch == epoch and stretch:
                        end = stretch[-1][0]
                        expected = [(o, kept[o]) for o in sorted(kept) if begin < o <= end]
                        assert stretch == expected, "a message was left out"
        delivered = {number for kept in logs.values() for number in kept.values()}
        assert not delivered & self.refused, "a message that was refused was delivered"
        for number, (epoch, offset) in self.acknowledged.items():
            assert logs[epoch].get(offset) == number, "a message that was acknowledged was lost"


def has(process: Process, number: int) -> Callable[[], bool]:
    """Return a condition: the process was handed over the number, in the log or later."""

    def condition() -> bool:
        with suppress(IndexError):
            loaded = process.logs[-1].publications
            if any(int(bytes(each.message)) == number for _, each in loaded):
                return True
        return number in process.numbers

    return condition
