"""Several workers of one uvicorn, on one port and one Redis, are one server."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.conftest import server_factory
from tests.processes import Redis, Server, ServerFactory, redis_server, wait_until_async
from tests.wire.client import WireClient, connected

# Two processes start meanwhile.
PLACING_TIMEOUT = 90.0
DRAIN_TIMEOUT = 30.0


def two_workers(start: ServerFactory, redis: Redis) -> Server:
    return start(
        "fastlane",
        *("--workers", "2"),
        # On a busy machine a worker is not there within the five seconds that uvicorn gives it.
        *("--timeout-worker-healthcheck", "60"),
        env={"REDIS_URL": redis.url},
        application="tests.connections.fastlane.worker:application",
    )


@pytest.fixture(scope="module")
def server(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers, whichever they are, for the tests that end no more than those."""
    folder = tmp_path_factory.mktemp("workers")
    with Redis.all_closed() as redis, Server.all_closed() as servers:
        redis.append(redis_server(folder))
        yield two_workers(server_factory(servers, folder, migrated_database), redis[0].start())


@pytest.fixture
def own_server(start_server: ServerFactory, redis: Redis) -> Server:
    return two_workers(start_server, redis)


@asynccontextmanager
async def placed(server: Server, count: int) -> AsyncIterator[list[list[WireClient]]]:
    """``count`` clients at each of both workers; which of them a connection gets is up to the kernel."""
    found: dict[int, list[WireClient]] = {}
    async with AsyncExitStack() as stack:

        async def is_full() -> bool:
            async with AsyncExitStack() as own:
                client = await own.enter_async_context(connected(server.url))
                clients = found.setdefault(worker_of(client), [])
                if len(clients) < count:
                    clients.append(client)
                    stack.push_async_exit(own.pop_all())
            return len(found) == 2 and all(len(clients) == count for clients in found.values())

        await wait_until_async(is_full, PLACING_TIMEOUT, "both workers have clients")
        yield list(found.values())


def worker_of(client: WireClient) -> int:
    """The process at the other end."""
    assert client.connection.response is not None
    return int(client.connection.response.headers["X-Worker"])


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_message_reaches_the_subscribers_at_each_worker_once_and_in_order(
    server: Server,
) -> None:
    count = 500
    async with placed(server, 3) as (one, two):
        writers, readers = [one.pop(), two.pop()], [*one, *two]
        for reader in readers:
            await reader.subscribe("news")

        async def write(writer: WireClient, name: str) -> None:
            for number in range(count):
                await writer.send(
                    {"type": "publish", "topic": "news.uk", "message": [name, number]}
                )
            acks = [(await writer.receive())["type"] for _ in range(count)]
            assert acks == ["ack"] * count

        await asyncio.gather(*map(write, writers, "ab"))
        for reader in readers:
            messages = [(await reader.receive())["message"] for _ in range(2 * count)]
            for name in "ab":
                of_one = [number for other, number in messages if other == name]
                assert of_one == list(range(count))
            await reader.nothing_more()


def to_the_parent(server: Server) -> None:
    server.signal(signal.SIGTERM)


def to_all(server: Server) -> None:
    """As systemd does it: the workers get it from their parent, too."""
    os.killpg(server.pid, signal.SIGTERM)


@pytest.mark.parametrize("sigterm", [to_the_parent, to_all])
async def test_sigterm_sends_the_clients_of_each_away_to_come_back(
    own_server: Server, sigterm: Callable[[Server], None]
) -> None:
    async with placed(own_server, 2) as (one, two):
        clients = [*one, *two]
        workers = [worker_of(one[0]), worker_of(two[0])]
        for client in clients:
            await client.subscribe("news")
        sigterm(own_server)
        for client in clients:
            error = await client.receive()
            assert (error["code"], error["retryable"]) == ("unavailable", True)
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4200
        assert await asyncio.to_thread(own_server.wait, DRAIN_TIMEOUT) == 0
    assert not any(map(is_running, workers))
    assert own_server.log.count("sessions closed, as the server is going away: 2") == 2
    assert "Traceback" not in own_server.log


async def test_sighup_replaces_the_workers_while_somebody_serves(server: Server) -> None:
    async with placed(server, 2) as (one, two):
        clients = [*one, *two]
        before = {worker_of(client) for client in clients}
        server.signal(signal.SIGHUP)
        for client in clients:
            assert (await client.receive())["code"] == "unavailable"
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4200
            # Who comes back at once may meet the worker that is going away: it says so, and another one serves.
            await wait_until_async(partial(publishes, server), what="somebody serves")
    await wait_until_async(lambda: not any(map(is_running, before)), what="both were replaced")
    async with placed(server, 1) as ((again,), (other,)):
        await other.subscribe("news")
        await again.publish("news", 1)
        assert (await other.receive())["message"] == 1
    assert "Traceback" not in server.log


async def publishes(server: Server) -> bool:
    # A worker that goes away answers 503, or closes a connection: one whose request it has not read yet, or another.
    with suppress(InvalidHandshake, ConnectionClosed, OSError):
        async with connected(server.url) as client:
            answer = await client.call("publish", "news", message="anybody there?")
            return bool(answer["type"] == "ack")
    return False


async def test_worker_that_dies_is_replaced_and_the_other_s_clients_notice_nothing(
    server: Server,
) -> None:
    async with placed(server, 2) as (one, two):
        for client in two:
            await client.subscribe("news")
        os.kill(worker_of(one[0]), signal.SIGKILL)
        for client in one:
            with pytest.raises(ConnectionClosed):
                await client.receive()
        await two[0].publish_and_receive("news", 1)
        assert (await two[1].receive())["message"] == 1
        async with placed(server, 1) as ((again,), (other,)):
            for number, client in enumerate([again, other]):
                await client.publish("news", number)
                for reader in two:
                    assert (await reader.receive())["message"] == number
