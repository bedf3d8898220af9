"""The clients against the project's own servers, as processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from dwsps_channels.client import BlockingClient, Client, ConnectionLost, ServerError
from tests.processes import HOST, ROOT, Server, ServerFactory, wait_until, wait_until_async


@pytest.fixture(scope="module")
def some_server(start_shared_server: ServerFactory) -> Server:
    """One kind of server, for what a shell makes of the client."""
    return start_shared_server("fastlane")


async def test_publish_and_subscribe(server: Server) -> None:
    async with (
        Client(server.url) as reader,
        Client(server.url) as writer,
        reader.subscribe("news") as messages,
    ):
        await writer.publish("news.uk", {"n": 1, "☃": None})
        await writer.publish("newsroom", 2)
        await writer.publish("news", 3)
        got = [await messages.get() for _ in range(2)]
    assert [(each.topic, each.context, each.message) for each in got if each] == [
        ("news.uk", "news", {"n": 1, "☃": None}),
        ("news", "news", 3),
    ]


async def test_half_a_character_comes_through_in_a_message(server: Server) -> None:
    message = {"\ud83d": ["x\ude00", "😀"]}
    async with Client(server.url) as client, client.subscribe("cut") as messages:
        await client.publish("cut", message)
        got = await messages.get()
    assert got is not None
    assert got.message == message


async def test_error_of_the_server_is_raised(server: Server) -> None:
    async with Client(server.url) as client:
        with pytest.raises(ServerError) as caught:
            await client.publish("a..b", 1)
        assert (caught.value.code, caught.value.retryable) == ("invalid_topic", False)
        with pytest.raises(ServerError) as caught:
            await client.publish("a", "x" * 70_000)
        assert caught.value.code == "message_too_large"
        with pytest.raises(ServerError):
            await client.subscribe("a b", print)
        await client.publish("a", 1)


async def test_thousand_publishes_in_flight_arrive_in_order(server: Server) -> None:
    async with Client(server.url) as client:
        order: list[int] = []
        got: list[Any] = []

        async def publish(number: int) -> None:
            await client.publish("numbers", number)
            order.append(number)

        await client.subscribe("numbers", lambda message: got.append(message.message))
        await asyncio.gather(*(publish(number) for number in range(1000)))
        await wait_until_async(lambda: len(got) == 1000)
    assert order == got == list(range(1000))


async def test_server_that_is_killed_and_comes_back_finds_its_subscriptions(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    states: list[str] = []
    async with (
        Client(server.url, min_delay=0.05, max_delay=0.2, on_state=states.append) as client,
        client.subscribe("news") as messages,
        client.subscribe("other"),
    ):
        await client.publish("news", "before")
        server.kill()
        await wait_until_async(lambda: client.state == "reconnecting")
        waiting = asyncio.create_task(client.publish("news", "meanwhile"))
        server.start()
        async with asyncio.timeout(60):
            await waiting
            await client.publish("news", "after")
            got = [await messages.get() for _ in range(3)]
    assert [each.message for each in got if each] == ["before", "meanwhile", "after"]
    assert states == ["open", "reconnecting", "open", "closed"]


async def test_publish_in_flight_when_the_server_is_killed_raises(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    async with Client(server.url, min_delay=0.05, max_delay=0.2) as client:
        await client.wait_open()
        # A server that is stopped takes frames and answers none.
        server.suspend()
        publishing = [asyncio.create_task(client.publish("a", number)) for number in range(10)]
        await asyncio.sleep(0)
        server.kill()
        results = await asyncio.gather(*publishing, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLost] * 10
        server.start()
        async with asyncio.timeout(60):
            await client.publish("a", 1)


async def test_server_that_goes_away_is_come_back_to_at_once(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    async with Client(server.url, min_delay=0.05, max_delay=0.2) as client:
        await client.subscribe("news", print)
        await asyncio.to_thread(server.terminate)
        await wait_until_async(lambda: client.state == "reconnecting")
        server.start()
        async with asyncio.timeout(60):
            await client.wait_open()
        assert client.subscriptions == ["news"]


async def test_heartbeats_are_answered(server: Server) -> None:
    async with Client(server.url, heartbeat=0.02) as client:
        await client.wait_open()
        assert await wait_until_async(lambda: client.latency)


def test_threads_publish_and_read(server: Server) -> None:
    with (
        BlockingClient(server.url) as reader,
        BlockingClient(server.url) as writer,
        reader.subscribe("news", timeout=30) as messages,
    ):
        for number in range(5):
            writer.publish("news.uk", number)
        got = []
        for message in messages:
            got.append(message.message)
            if message.message == 4:
                break
    assert got == list(range(5))


def command(server: Server, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "dwsps_channels.client",
        f"{server.url}/?session=s3cr3t",
        *arguments,
    ]


def test_command_line_publishes_what_it_prints(some_server: Server) -> None:
    subscriber = subprocess.Popen(
        command(some_server, "subscribe", "news", "sport"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert subscriber.stdout is not None
        lines: list[dict[str, Any]] = []

        def published() -> bool:
            # Until the other one is subscribed.
            done = subprocess.run(
                command(some_server, "publish", "news.uk", '{"n": 1}'), cwd=ROOT, timeout=60
            )
            assert done.returncode == 0
            os.set_blocking(subscriber.stdout.fileno(), False)  # type: ignore[union-attr]
            lines.extend(json.loads(line) for line in subscriber.stdout or ())
            return bool(lines)

        wait_until(published, 60)
    finally:
        subscriber.kill()
        subscriber.communicate()
    assert (lines[0]["topic"], lines[0]["context"], lines[0]["message"]) == (
        "news.uk",
        "news",
        {"n": 1},
    )


def until_interrupted(server: Server, lines: int, *arguments: str) -> tuple[list[Any], list[str]]:
    """Subscribe until so many lines have come, or one to the error output; return the messages, and that output."""
    subscriber = subprocess.Popen(
        command(server, "subscribe", *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output = subscriber.stdout if lines else subscriber.stderr
        assert output is not None
        read = [output.readline() for _ in range(lines or 1)]
        subscriber.send_signal(signal.SIGINT)
        printed, errors = subscriber.communicate(timeout=60)
    finally:
        subscriber.kill()
    assert subscriber.returncode == 130
    messages = [*(read if lines else []), *printed.splitlines()]
    errors = "".join([] if lines else read) + errors
    return [json.loads(line)["message"] for line in messages], errors.splitlines()


def test_command_line_continues_where_it_was_interrupted(some_server: Server) -> None:
    with BlockingClient(some_server.url) as client:
        for number in range(3):
            client.publish("shell.uk", number)
        got, errors = until_interrupted(some_server, 2, "--last", "2", "shell")
        assert got == [1, 2]
        [hint] = errors
        words, _, cursor = hint.rpartition(" ")
        assert words == "continue with --since"
        client.publish("shell", 3)
        got, errors = until_interrupted(some_server, 1, "--since", cursor, "shell")
        assert got == [3]
        got, errors = until_interrupted(some_server, 0, "--since", "other:1", "shell")
    assert got == []
    assert errors[0] == "reset: messages of shell may be missing here"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["publish", "a..b", "1"], "invalid_topic"),
        (["publish", "a", "{"], "not JSON"),
        (["subscribe", "a b"], "invalid_topic"),
        (["subscribe", "a", "--last", "-1"], "not negative"),
        (["subscribe", "a", "--last", "1", "--since", "e:1"], "not allowed with"),
    ],
)
def test_command_line_says_what_is_wrong(
    some_server: Server, arguments: list[str], words: str
) -> None:
    done = subprocess.run(
        command(some_server, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cr3t" not in done.stderr + done.stdout


@pytest.mark.processes
def test_command_line_does_not_wait_for_ever_for_a_server() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dwsps_channels.client", f"ws://{HOST}:1/"),
            *("--timeout", "2", "publish", "a", "1"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr


@pytest.mark.processes
def test_nothing_of_django_is_loaded() -> None:
    program = "import sys, dwsps_channels.client.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "websockets" in loaded
    assert loaded.isdisjoint({"django", "channels", "asgiref"})
