"""Publishing from processes that serve nothing: each test runs one, as a task queue's worker or cron would be."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import (
    FORKS,
    ROOT,
    Child,
    Redis,
    Server,
    ServerFactory,
    base_environment,
    free_port,
)
from tests.wire.client import WireClient, connected

# On a busy machine an answer that comes may take a while.
LONG_TIMEOUT = 20.0

WARNINGS_FAIL = """
import warnings
warnings.simplefilter("error")
"""

PREAMBLE = """
import asyncio, json, os, sys, threading, time
import django
django.setup()
from django.db import transaction
from dwsps_channels import apublish, publish
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.exceptions import NotServing

def reached(result):
    return result and result.reached

def tell(value):
    os.write(1, (json.dumps(value) + "\\n").encode())

def wait():
    sys.stdin.readline()

tell("ready")
"""


# What the demo project has its processes log: what was lost.
LOG_LINE = re.compile(r"\S+ \S+ WARNING dwsps_channels\.publishing: ")


class Script:
    """A process of the project's that runs ``source``, and that the test talks with. It ends with status 0 and no complaint, or the test fails."""

    def __init__(self, source: str, env: dict[str, str]) -> None:
        self.log = ""
        """Its log, once it has ended."""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PREAMBLE + source],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # What ``readline`` read ahead, ``communicate`` would not give back.
            bufsize=0,
        )

    def told(self) -> Any:
        """The next value that it tells."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate(timeout=20)[1].decode()
        return json.loads(line)

    def go_on(self) -> None:
        """Let it return from ``wait``."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def end(self) -> list[Any]:
        """Wait for its end; what it told since it was last asked."""
        out, error = self._process.communicate(timeout=60)
        self.log = error.decode()
        return values_told(self._process.returncode, out.decode(), self.log)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def values_told(status: int, out: str, log: str) -> list[Any]:
    """Return the values in the output of a process, which has to end well and without a complaint."""
    complaints = [line for line in log.splitlines() if not LOG_LINE.match(line)]
    assert (status, complaints) == (0, []), log
    return [json.loads(line) for line in out.splitlines()]


def environment(server: Server | dict[str, str], timeout: float) -> dict[str, str]:
    """Return the environment of a process that reaches the server by its websocket, or ``server`` itself, with this PUBLISH_TIMEOUT."""
    if isinstance(server, Server):
        server = server.env | {"DWSPS_SERVER_URL": f"{server.url}/ws/pubsub/"}
    return server | {"TEST_DWSPS": json.dumps({"PUBLISH_TIMEOUT": timeout})}


def run_to_the_end(source: str, server: Server | dict[str, str]) -> list[Any]:
    """Run ``source`` in a process, and return all that it told but for "ready"."""
    env = environment(server, LONG_TIMEOUT)
    done = FORKS.run("shell", "-v", "0", "-c", WARNINGS_FAIL + PREAMBLE + source, env=env)
    return values_told(done.returncode, done.stdout, done.stderr)[1:]


StartScript = Callable[..., Script]


@pytest.fixture
def start() -> Iterator[StartScript]:
    """Call it with a source and a server, or an environment, to get a script."""
    scripts = []

    def start(
        source: str, server: Server | dict[str, str], timeout: float = LONG_TIMEOUT
    ) -> Script:
        scripts.append(Script(source, environment(server, timeout)))
        # To start takes a while on a busy machine: what is awaited next does not wait for that.
        assert scripts[-1].told() == "ready"
        return scripts[-1]

    yield start
    for script in scripts:
        script.kill()


@pytest.fixture(scope="module")
def server_kind() -> str:
    return "fastlane"


@pytest.fixture
async def client(server: Server) -> AsyncIterator[WireClient]:
    """Subscribed to ``news``."""
    async with connected(server.url) as client:
        await client.subscribe("news")
        yield client


async def receives(client: WireClient, *messages: Any) -> None:
    assert [(await client.receive())["message"] for _ in messages] == list(messages)


class TestThroughTheServer:
    async def test_from_wherever_plain_and_async_code_runs(
        self, server: Server, client: WireClient
    ) -> None:
        told = run_to_the_end(
            """
tell(reached(publish("news.uk", {"n": 10**29, "text": "\\u2603"})))
tell(reached(asyncio.run(apublish("news", "from a loop"))))
tell(reached(asyncio.run(apublish("news", "from another"))))
thread = threading.Thread(target=lambda: tell(reached(publish("news", "from a thread"))))
thread.start()
thread.join()
with transaction.atomic():
    tell(reached(publish("news", "on commit")))
    tell(reached(publish("news", "at once", on_commit=False)))
with transaction.atomic():
    publish("news", "never")
    transaction.set_rollback(True)
""",
            server,
        )
        await receives(client, {"n": 10**29, "text": "☃"}, "from a loop", "from another")
        await receives(client, "from a thread", "at once", "on commit")
        assert told == [0, 0, 0, 0, None, 0]
        await client.nothing_more()

    async def test_what_many_threads_publish_comes_in_the_order_of_each(
        self, server: Server, client: WireClient
    ) -> None:
        run_to_the_end(
            """
def work(name):
    for number in range(50):
        publish("news", [name, number])

threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
""",
            server,
        )
        came = [(await client.receive())["message"] for _ in range(200)]
        for name in range(4):
            assert [number for who, number in came if who == name] == list(range(50))

    async def test_a_database_connection_that_died_is_replaced(
        self, server: Server, client: WireClient
    ) -> None:
        """A process that only publishes reads the server's id once in a while, and nothing else."""
        run_to_the_end(
            """
from django.db import connection
from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.conf import conf
from dwsps_channels.publishing.remote import remote_publisher

publish("news", "before")
connection.ensure_connection()
connection.connection.close()
remote_publisher(configured_backend(), conf.SERVER_URL).close()
publish("news", "after")
""",
            server,
        )
        await receives(client, "before", "after")

    async def test_apublish_leaves_no_database_connection_behind(
        self, server: Server, client: WireClient
    ) -> None:
        told = run_to_the_end(
            """
from concurrent.futures import ThreadPoolExecutor
from django.db import connection

async def main(pool):
    asyncio.get_running_loop().set_default_executor(pool)
    await apublish("news", 1)
    tell(pool.submit(lambda: connection.connection is None).result())

with ThreadPoolExecutor(1) as pool:
    asyncio.run(main(pool))
""",
            server,
        )
        await receives(client, 1)
        assert told == [True]

    async def test_one_connection_is_kept(self, start_server: ServerFactory) -> None:
        server = start_server("uvicorn", "--log-level", "info")
        run_to_the_end('for number in range(20): publish("news", number)', server)
        assert server.log.count('"WebSocket /ws/pubsub/" [accepted]') == 1

    async def test_after_a_fork_each_process_has_its_own(
        self, server: Server, client: WireClient
    ) -> None:
        told = run_to_the_end(
            """
publish("news", "parent")
child = os.fork()
publish("news", "child" if child == 0 else "parent again")
if child == 0:
    os._exit(0)
tell(os.waitpid(child, 0)[1])
publish("news", "parent at last")
""",
            server,
        )
        assert told == [0]
        came = [(await client.receive())["message"] for _ in range(4)]
        assert sorted(came) == ["child", "parent", "parent again", "parent at last"]
        assert came[-1] == "parent at last"
        await client.nothing_more()

    async def test_what_a_serving_process_forks_serves_nothing(
        self, server: Server, client: WireClient
    ) -> None:
        told = run_to_the_end(
            """
from dwsps_channels.server import runtime

def fork():
    child = os.fork()
    if child == 0:
        publish("news", "child")
        os._exit(0)
    return os.waitpid(child, 0)[1]

async def serve():
    await runtime.obtain()
    tell(await asyncio.to_thread(fork))

asyncio.run(serve())
""",
            server,
        )
        await receives(client, "child")
        assert told == [0]

    async def test_a_server_that_is_restarted_in_between_is_found_again(
        self, start_server: ServerFactory, start: StartScript
    ) -> None:
        server = start_server("fastlane")
        script = start(
            'publish("news", 1); tell("one"); wait(); publish("news", 2); tell("two")', server
        )
        assert script.told() == "one"
        server.restart()
        async with connected(server.url) as client:
            await client.subscribe("news")
            script.go_on()
            await receives(client, 2)
        assert script.end() == ["two"]

    def test_a_refused_credential_is_told(self, server: Server) -> None:
        env = server.env | {
            "DWSPS_SERVER_URL": f"{server.url}/ws/pubsub/",
            "SECRET_KEY": "another" * 10,
        }
        [error] = run_to_the_end(RAISING, env)
        assert "HTTP 403" in error


RAISING = """
try:
    publish("news", 1)
except NotServing as error:
    tell(str(error))
"""


class TestNobodyServes:
    @pytest.fixture
    def env(self, database: Path) -> dict[str, str]:
        url = f"ws://127.0.0.1:{free_port()}/ws/pubsub/?token=hidden"
        return base_environment(database) | {"DWSPS_SERVER_URL": url}

    def test_the_error_says_what_both_ways_lack(self, env: dict[str, str]) -> None:
        [error] = run_to_the_end(RAISING, env)
        assert "CHANNEL_LAYERS has no layer that processes share" in error
        assert env["DWSPS_SERVER_URL"].split("?")[0] in error
        assert "cannot be used: connection refused." in error
        assert "hidden" not in error

    def test_so_does_apublish_and_the_server_may_come_up_later(
        self, env: dict[str, str], start: StartScript, start_server: ServerFactory
    ) -> None:
        port = free_port()
        env["DWSPS_SERVER_URL"] = f"ws://127.0.0.1:{port}/"
        script = start(
            """
try:
    asyncio.run(apublish("news", 1))
except NotServing:
    tell("not yet")
wait()
deadline = time.monotonic() + 30
while True:
    try:
        tell(reached(publish("news", 1)))
        break
    except NotServing:  # for a moment after a failure
        if time.monotonic() > deadline:
            raise
        time.sleep(0.01)
""",
            env,
        )
        assert script.told() == "not yet"
        start_server("fastlane", port=port, env={"DATABASE_URL": env["DATABASE_URL"]})
        script.go_on()
        assert script.end() == [0]

    def test_after_a_fork_the_child_is_told_as_well(self, env: dict[str, str]) -> None:
        told = run_to_the_end(
            """
for _ in range(2):
    try:
        publish("news", 1)
    except NotServing:
        tell("not serving")
    if _ == 0:
        child = os.fork()
if child:
    os.waitpid(child, 0)
else:
    os._exit(0)
""",
            env,
        )
        assert told == ["not serving"] * 3


HANGING = """
publish("news", "warm")
tell("warm")
wait()
outcomes = []

def work():
    begun = time.monotonic()
    try:
        publish("news", 1)
    except Unavailable as error:
        outcomes.append((str(error), time.monotonic() - begun))

def in_threads():
    threads = [threading.Thread(target=work) for _ in range(8)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begun

tell(in_threads())
begun = time.monotonic()
for _ in range(20):
    work()
tell(time.monotonic() - begun)
tell(sorted({error for error, _ in outcomes}))
wait()
lost = len(outcomes)
while True:
    try:
        publish("news", "again")
        break
    except Unavailable:
        lost += 1
        time.sleep(0.05)
tell(lost)
"""


class TestHanging:
    """A server, or a Redis, that takes connections and does not answer."""

    async def test_a_server(self, start_server: ServerFactory, start: StartScript) -> None:
        server = start_server("fastlane")
        async with connected(server.url) as client:
            await client.subscribe("news")
            env = server.env | {"DWSPS_SERVER_URL": f"{server.url}/ws/pubsub/"}
            lost, log = self.hung(server, start(HANGING, env, 2.0))
            # What had reached the server is delivered, though nobody could know.
            came = ""
            while came != "again":
                came = (await client.receive())["message"]
        assert f"{lost} since the start" in log

    def test_a_redis(self, redis: Redis, database: Path, start: StartScript) -> None:
        env = base_environment(database) | {"REDIS_URL": redis.url}
        lost, log = self.hung(redis, start(HANGING, env, 2.0))
        assert f"{lost + 2} since the start" in log
        assert "no process of the server was listening (" in log

    def hung(self, child: Child, script: Script) -> tuple[int, str]:
        """Stop ``child`` while the script publishes; how many of its messages it said were lost, and its log."""
        assert script.told() == "warm"
        child.suspend()
        script.go_on()
        # One deadline for all, not one after the other. Then nobody waits, but one now and then.
        assert script.told() < 8 * 2
        assert script.told() < 20 * 2
        problems = script.told()
        assert "the server cannot be reached: no answer within 2 s" in problems
        # A server that was stopped while it wrote holds a lock on SQLite as well.
        problem = (
            "the server cannot be reached: the server's id cannot be looked up: database is locked"
        )
        assert set(problems) <= {"the server cannot be reached: no answer within 2 s", problem}
        child.signal(signal.SIGCONT)
        script.go_on()
        [lost] = script.end()
        assert "no answer within 2 s (" in script.log
        return lost, script.log


class TestThroughRedis:
    async def test_every_process_of_the_server_gets_it_and_no_server_url_is_needed(
        self, redis: Redis, start_server: ServerFactory
    ) -> None:
        servers = [start_server("fastlane", env={"REDIS_URL": redis.url}) for _ in range(2)]
        async with connected(servers[0].url) as one, connected(servers[1].url) as other:
            for client in (one, other):
                await client.subscribe("news")
            told = run_to_the_end(
                """
tell(reached(publish("news", 1)))
tell(reached(asyncio.run(apublish("news", 2))))
child = os.fork()
if child == 0:
    publish("news", 3)
    os._exit(0)
tell(os.waitpid(child, 0)[1])
publish("news", 4)
""",
                servers[0].env | {"DWSPS_SERVER_URL": f"ws://127.0.0.1:{free_port()}/"},
            )
            for client in (one, other):
                await receives(client, 1, 2, 3, 4)
            assert told == [0, 0, 0]

    async def test_a_redis_that_is_away_is_unavailable_and_found_again(
        self, redis: Redis, database: Path, start: StartScript
    ) -> None:
        env = base_environment(database) | {"REDIS_URL": redis.url}
        script = start(
            """
publish("news", 1)
tell("taken")
wait()
try:
    publish("news", 2)
except Unavailable as error:
    tell(str(error))
wait()
while True:
    try:
        tell(reached(publish("news", 3)))
        break
    except Unavailable:  # for a moment after the failure
        time.sleep(0.05)
""",
            env,
        )
        assert script.told() == "taken"
        redis.kill()
        script.go_on()
        assert "the server cannot be reached: Redis: " in script.told()
        redis.start()
        script.go_on()
        assert script.end() == [0]
