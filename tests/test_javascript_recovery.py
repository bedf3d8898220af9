"""The JavaScript client, away from servers that are real: what it missed arrives, or it says that it cannot."""

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from random import randbytes
from typing import Any

import pytest

from dwsps_channels.client import BlockingClient
from tests.processes import KINDS, ROOT, Redis, Server, ServerFactory, require, wait_until

TOPIC = "numbers"


class Subscriber:
    """A Node process that subscribes: tests/js/subscriber.mjs."""

    def __init__(self, server: Server) -> None:
        self.process = subprocess.Popen(
            [require("node"), "subscriber.mjs", server.url, TOPIC],
            cwd=ROOT / "tests" / "js",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seen: list[Any] = []
        """Messages (whole numbers), "open", and an object for each other event."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):  # else it was killed in the middle of it
                self.seen.append(json.loads(line))

    @property
    def numbers(self) -> list[int]:
        return [entry for entry in self.seen if isinstance(entry, int)]

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def wait_for(self, entry: Any, timeout: float = 20) -> None:
        wait_until(lambda: entry in self.seen, timeout, f"{entry} of {self.seen[-10:]}")

    def wait_open(self, times: int) -> None:
        wait_until(lambda: self.seen.count("open") >= times, 20, "connected again")

    def stop(self) -> None:
        with self.process:  # closes its pipes
            self.process.kill()
            self._reader.join()


@pytest.fixture(scope="module")
def server_kind() -> str:
    """One kind suffices: how each of them ends a connection, tests/wire shows."""
    return "fastlane"


@pytest.fixture
def subscribe() -> Iterator[Callable[[Server], Subscriber]]:
    """Call it with a server to get a subscriber that is connected to it."""
    subscribers: list[Subscriber] = []

    def start(server: Server) -> Subscriber:
        subscriber = Subscriber(server)
        subscribers.append(subscriber)
        subscriber.wait_open(1)
        return subscriber

    yield start
    for subscriber in subscribers:
        subscriber.stop()


def test_what_was_published_during_a_break_arrives_in_order_and_once(
    subscribe: Callable[[Server], Subscriber], server: Server
) -> None:
    subscriber = subscribe(server)
    with BlockingClient(server.url) as publisher:
        for round in range(10):
            subscriber.tell("cut")
            for number in range(20):
                publisher.publish(TOPIC, 20 * round + number)
            subscriber.wait_open(round + 2)
        publisher.publish(TOPIC, 200)
        subscriber.wait_for(200)
    assert subscriber.numbers == list(range(201))
    assert not [entry for entry in subscriber.seen if isinstance(entry, dict) and "reset" in entry]


def test_a_process_that_was_stopped_goes_on_where_it_was_or_tells_a_reset(
    subscribe: Callable[[Server], Subscriber], start_server: ServerFactory, server_kind: str
) -> None:
    """As a laptop that sleeps. Beyond what sockets hold the server closes with 4100."""
    limits = {"MAX_BUFFERED_BYTES": 131072, "RESUME_BYTES": 65536}
    server = start_server(server_kind, dwsps=limits)
    subscriber = subscribe(server)
    subscriber.process.send_signal(signal.SIGSTOP)
    try:
        with BlockingClient(server.url) as publisher:
            number = 0
            while "waiting to be read" not in server.log:
                publisher.publish(f"{TOPIC}.padding", randbytes(30_000).hex())
                publisher.publish(TOPIC, number)
                number += 1
                assert number < 2000, "it was never closed"
    finally:
        subscriber.process.send_signal(signal.SIGCONT)
    subscriber.wait_open(2)
    with BlockingClient(server.url) as publisher:
        publisher.publish(TOPIC, number)
    subscriber.wait_for(number)
    assert {"close": 4100} in subscriber.seen
    numbers = subscriber.numbers
    if {"reset": [TOPIC]} in subscriber.seen:
        missed = subscriber.seen.index({"reset": [TOPIC]})
        before = [entry for entry in subscriber.seen[:missed] if isinstance(entry, int)]
        assert before == list(range(len(before)))
        assert numbers == [*before, number]
    else:
        assert numbers == list(range(number + 1))


def test_a_server_that_restarts_without_its_log_leads_to_a_reset(
    subscribe: Callable[[Server], Subscriber], start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    subscriber = subscribe(server)
    with BlockingClient(server.url) as publisher:
        publisher.publish(TOPIC, 1)
    subscriber.wait_for(1)
    server.restart()
    subscriber.wait_for({"reset": [TOPIC]})
    subscriber.wait_open(2)
    with BlockingClient(server.url) as publisher:
        publisher.publish(TOPIC, 2)
    subscriber.wait_for(2)
    assert subscriber.numbers == [1, 2]


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_deploy_with_the_log_in_redis_loses_nothing(
    subscribe: Callable[[Server], Subscriber],
    start_server: ServerFactory,
    redis: Redis,
    how: str,
) -> None:
    env = {"REDIS_URL": redis.url}
    one, two = (start_server(kind, env=env) for kind in KINDS[:2])
    subscriber = subscribe(one)
    with BlockingClient(two.url) as publisher:
        publisher.publish(TOPIC, 0)
        subscriber.wait_for(0)
        getattr(one, how)()
        for number in range(1, 50):
            publisher.publish(TOPIC, number)
        one.start()
        subscriber.wait_open(2)
        publisher.publish(TOPIC, 50)
        subscriber.wait_for(50)
    assert subscriber.numbers == list(range(51))
    assert {"close": 4200 if how == "terminate" else 1006} in subscriber.seen


def test_publishes_in_flight_when_the_connection_breaks_arrive_once(
    subscribe: Callable[[Server], Subscriber], server: Server
) -> None:
    subscriber, witness = subscribe(server), subscribe(server)
    subscriber.tell("publish 0")
    witness.wait_for(0)
    for number in range(1, 60):
        subscriber.tell(f"publish {number}")
        if number % 6 == 0:
            subscriber.tell("cut")
    wait_until(lambda: len(published(subscriber)) == 60, 20)
    witness.wait_for(59)
    wait_until(lambda: len(subscriber.numbers) == 60, 20)
    assert published(subscriber) == witness.numbers == subscriber.numbers == list(range(60))


def published(subscriber: Subscriber) -> list[int]:
    """The numbers that it has published, as they were acknowledged."""
    return [
        entry["published"]
        for entry in subscriber.seen
        if isinstance(entry, dict) and "published" in entry
    ]
