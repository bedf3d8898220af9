"""Backpressure: the time for which publishers wait for a slow client."""

import pytest

from dwsps_channels.connections.transports import backpressure
from dwsps_channels.connections.transports.backpressure import MIN_PROGRESS_BYTES, Backpressure
from tests.connections.transports.contract import turns, until


class Queue:
    """Bytes on their way to a client, and the calls that report them."""

    def __init__(self, size: int = 100 * MIN_PROGRESS_BYTES) -> None:
        self.size = size
        self.asked = 0
        self.read_each_time = 0
        self.told: list[bool] = []

    def __call__(self) -> int:
        self.asked += 1
        self.size -= self.read_each_time
        return self.size


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "PROGRESS_INTERVAL", 0.001)


async def test_as_long_as_the_client_reads_they_wait() -> None:
    queue = Queue()
    queue.read_each_time = MIN_PROGRESS_BYTES
    behind = Backpressure(queue, queue.told.append)
    await until(lambda: queue.asked > 10)
    assert queue.told == [True]
    caught_up = behind.caught_up()
    assert caught_up is not None
    behind.end()
    await caught_up
    behind.end()
    assert queue.told == [True, False]
    assert behind.caught_up() is None


async def test_if_it_reads_too_little_they_go_on() -> None:
    queue = Queue()
    queue.read_each_time = MIN_PROGRESS_BYTES - 1
    behind = Backpressure(queue, queue.told.append)
    caught_up = behind.caught_up()
    assert caught_up is not None
    await caught_up
    assert queue.told == [True, False]
    assert queue.asked == 2
    behind.end()
    assert queue.told == [True, False]


async def test_one_that_gives_up_waiting_does_so_alone() -> None:
    queue = Queue()
    queue.read_each_time = MIN_PROGRESS_BYTES
    behind = Backpressure(queue, queue.told.append)
    one, other = behind.caught_up(), behind.caught_up()
    assert one is not None
    assert other is not None
    one.cancel()
    await turns()
    assert not other.done()
    behind.end()
    await other
