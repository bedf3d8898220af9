"""The client for threads."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, TypeVar

import pytest

from dwsps_channels.client import (
    BlockingClient,
    CallTimeout,
    ClientClosed,
    ConnectionLost,
    ServerError,
)
from tests.client.scripted import IGNORE, ScriptedServer, response
from tests.processes import HOST, ROOT, free_port, wait_until

T = TypeVar("T")

OPTIONS: dict[str, Any] = {"min_delay": 0.01, "max_delay": 0.01}


async def in_thread(use: Callable[[], T]) -> T:
    """The servers of these tests live in the test's loop, so their clients do not."""
    return await asyncio.to_thread(use)


def client_threads() -> int:
    return sum(thread.name == "dwsps-client" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_left() -> Any:
    yield
    gc.collect()
    wait_until(lambda: client_threads() == 0)


async def test_publish_and_subscribe(scripted: ScriptedServer) -> None:
    def use() -> list[Any]:
        with BlockingClient(scripted.url) as client:
            with client.subscribe("news", timeout=30) as messages:
                assert scripted.topics == ["news"]
                for number in range(3):
                    client.publish("news.uk", number)
                got = [message.message for _, message in zip(range(3), messages, strict=False)]
            wait_until(lambda: scripted.topics == [])
            return got

    assert await in_thread(use) == [0, 1, 2]


async def test_iterating_ends_when_nothing_came_for_the_timeout(scripted: ScriptedServer) -> None:
    def use() -> list[Any]:
        with BlockingClient(scripted.url) as client:
            messages = client.subscribe("news", timeout=0.1)
            client.publish("news", 1)
            got = [message.message for message in messages]
            client.publish("news", 2)
            return got + [message.message for message in messages]

    assert await in_thread(use) == [1, 2]


async def test_get_raises_when_nothing_came_and_loses_nothing(scripted: ScriptedServer) -> None:
    def use() -> None:
        with BlockingClient(scripted.url) as client:
            messages = client.subscribe("news")
            for number in range(20):
                with pytest.raises(TimeoutError):
                    messages.get(timeout=0.005)
                client.publish("news", number)
                message = messages.get(timeout=30)
                assert message is not None
                assert message.message == number
            messages.unsubscribe()
            assert messages.get() is None

    await in_thread(use)


async def test_errors_come_through(scripted: ScriptedServer) -> None:
    scripted.decide = lambda frame: {"code": "forbidden", "reason": "no"}

    def use() -> None:
        with BlockingClient(scripted.url) as client:
            with pytest.raises(ServerError, match="publish 'a': forbidden"):
                client.publish("a", 1)
            with pytest.raises(ServerError, match="subscribe 'a': forbidden"):
                client.subscribe("a")
            with pytest.raises(ValueError, match="invalid_message"):
                client.publish("a", object())

    await in_thread(use)


async def test_many_threads_share_a_client(scripted: ScriptedServer) -> None:
    def use() -> list[int]:
        with BlockingClient(scripted.url) as client, ThreadPoolExecutor(8) as threads:
            messages = client.subscribe("news")
            list(threads.map(lambda number: client.publish("news", number), range(200)))
            got = [messages.get(timeout=30) for _ in range(200)]
            return sorted(message.message for message in got if message)

    assert await in_thread(use) == list(range(200))


async def test_close_frees_threads_that_wait(scripted: ScriptedServer) -> None:
    scripted.decide = lambda frame: IGNORE if frame["type"] == "publish" else None

    def use() -> None:
        client = BlockingClient(scripted.url)
        messages = client.subscribe("news")
        with ThreadPoolExecutor(2) as threads:
            publishing = threads.submit(client.publish, "news", 1)
            reading = threads.submit(lambda: [message.message for message in messages])
            wait_until(lambda: scripted.sent("publish"))
            client.close()
            with pytest.raises(ClientClosed):
                publishing.result(30)
            assert reading.result(30) == []
        client.close()
        assert client.state == "closed"
        with pytest.raises(ClientClosed):
            client.publish("news", 1)
        with pytest.raises(ClientClosed):
            client.subscribe("news")
        assert messages.get() is None
        messages.unsubscribe()

    await in_thread(use)


async def test_it_comes_back_and_says_what_got_lost(scripted: ScriptedServer) -> None:
    loop = asyncio.get_running_loop()

    def use() -> None:
        with BlockingClient(scripted.url, **OPTIONS) as client:
            messages = client.subscribe("news")
            scripted.decide = lambda frame: IGNORE
            with ThreadPoolExecutor(1) as threads:
                publishing = threads.submit(client.publish, "news", 1)
                wait_until(lambda: scripted.sent("publish"))
                scripted.decide = lambda frame: None
                loop.call_soon_threadsafe(scripted.cut)
                with pytest.raises(ConnectionLost):
                    publishing.result(30)
            client.publish("news", 2)
            message = messages.get(timeout=30)
            assert message is not None
            assert message.message == 2

    await in_thread(use)


async def test_call_does_not_wait_for_ever_for_a_connection(scripted: ScriptedServer) -> None:
    scripted.answer = lambda request: response(HTTPStatus.FORBIDDEN)

    def use() -> None:
        with BlockingClient(scripted.url, timeout=1.0, **OPTIONS) as client:
            wait_until(lambda: client.last_error)
            with pytest.raises(CallTimeout, match=r"no connection within 0\.1 s: .* HTTP 403"):
                client.publish("a", 1, timeout=0.1)
            with pytest.raises(CallTimeout, match=r"no connection within 2 s: .* HTTP 403"):
                client.subscribe("a")

    await in_thread(use)


async def test_client_that_is_forgotten_is_closed(scripted: ScriptedServer) -> None:
    def use() -> None:
        client = BlockingClient(scripted.url)
        client.publish("a", 1)
        assert client_threads() == 1
        del client
        gc.collect()

    await in_thread(use)
    await asyncio.to_thread(wait_until, lambda: not scripted.sessions)


async def test_subscription_keeps_its_client(scripted: ScriptedServer) -> None:
    def use() -> None:
        messages = BlockingClient(scripted.url).subscribe("news")
        gc.collect()
        with BlockingClient(scripted.url) as other:
            other.publish("news", 1)
        assert messages.get(timeout=30) is not None

    await in_thread(use)


@pytest.mark.processes
async def test_client_says_after_a_fork_that_it_cannot_be_used(scripted: ScriptedServer) -> None:
    program = f"""
import os, sys
from dwsps_channels.client import BlockingClient
client = BlockingClient({scripted.url!r})
messages = client.subscribe("news")
pid = os.fork()
if pid == 0:
    try:
        client.publish("a", 1)
    except RuntimeError as error:
        print(error)
    client.close()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
client.publish("news", 1)
print(messages.get(timeout=30).message)
"""
    done = await asyncio.to_thread(run, program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "this client belongs to the process before the fork: make another",
        "1",
    ]


@pytest.mark.processes
async def test_program_that_does_not_close_it_ends_all_the_same(scripted: ScriptedServer) -> None:
    program = f"""
from dwsps_channels.client import BlockingClient
client = BlockingClient({scripted.url!r})
client.publish("a", 1)
"""
    done = await asyncio.to_thread(run, program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    await asyncio.to_thread(wait_until, lambda: not scripted.sessions)


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_own_thread_cannot_wait_for_itself() -> None:
    caught: list[RuntimeError] = []

    def on_state(state: str) -> None:
        if state == "closed":  # by then this test knows its client
            with pytest.raises(RuntimeError, match="own thread") as info:
                client.publish("a", 1)
            caught.append(info.value)

    client = BlockingClient(f"ws://{HOST}:{free_port()}/", on_state=on_state)
    client.close()
    assert len(caught) == 1
