"""The benchmarks' own checks: a figure is worth as much as what catches a delivery that was lost."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError

from benchmarks import generator, goals, report, tournament
from benchmarks.contestants import CONTESTANTS, Contestant
from benchmarks.goals import GOALS
from benchmarks.loads import Load, all_loads
from benchmarks.rechecks import __main__ as recheck_load
from benchmarks.results import FAULTS, Results
from dwsps_channels.server.turns import MAX_AT_ONCE
from tests.connections.fastlane.raw import TEXT, RawClient, frame
from tests.processes import HOST, ROOT, Child, free_port, require, wait_until_async

Message = dict[str, Any]
Fault = Callable[["Subscriber", int, Message], list[Message]]

NO_FAULTS = dict.fromkeys(FAULTS, 0)
# The delivery that something is done to, and to whom: the first subscriber.
VICTIM = 5


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generator, compiled."""
    require(generator.COMPILER)
    return generator.build(tmp_path_factory.mktemp("generator"))


# A server that delivers badly


class Subscriber:
    """A connection that has subscribed, and what was held back from it."""

    def __init__(self, connection: ServerConnection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.held: list[Message] = []


class BadServer:
    """Speaks what the generator speaks, and gives each delivery to ``fault``, for what is to be sent in its place."""

    def __init__(self, fault: Fault, delay: float = 0.0) -> None:
        self.fault = fault
        self.delay = delay
        self.subscribers: dict[str, list[Subscriber]] = {}
        self.accepted = 0
        self.subscriptions = 0

    async def handle(self, connection: ServerConnection) -> None:
        self.accepted += 1
        # The generator leaves without a word.
        with suppress(ConnectionClosedError):
            await self.answer(connection)

    async def answer(self, connection: ServerConnection) -> None:
        async for text in connection:
            frame = json.loads(text)
            if frame["type"] == "subscribe":
                some = self.subscribers.setdefault(frame["topic"], [])
                some.append(Subscriber(connection, self.subscriptions))
                self.subscriptions += 1
                await connection.send(json.dumps({"type": "ack", "action": "subscribe"}))
            else:
                await asyncio.sleep(self.delay)
                await self.deliver(frame)

    async def deliver(self, frame: Message) -> None:
        sequence = int(frame["message"].split(".")[1], 16)
        for subscriber in self.subscribers.get(frame["topic"], []):
            for message in self.fault(subscriber, sequence, frame):
                await subscriber.connection.send(json.dumps(message))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Give the port."""
        async with serve(self.handle, HOST, 0) as server:
            yield next(iter(server.sockets)).getsockname()[1]


def faithful(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    return [message]


def losing(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    return [] if _is_victim(subscriber, sequence) else [message]


def doubling(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    return [message] * (2 if _is_victim(subscriber, sequence) else 1)


def swapping(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    if _is_victim(subscriber, sequence):
        subscriber.held.append(message)
        return []
    held, subscriber.held = subscriber.held, []
    return [message, *held]


def repeating(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    """An old one comes again, much later."""
    if _is_victim(subscriber, sequence):
        subscriber.held.append(message)
    if sequence == VICTIM + 20 and subscriber.held:
        return [message, subscriber.held.pop()]
    return [message]


def damaging(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    if not _is_victim(subscriber, sequence):
        return [message]
    text = message["message"]
    return [{**message, "message": f"{text[:-5]}x{text[-4:]}"}]


def shortening(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    if not _is_victim(subscriber, sequence):
        return [message]
    return [{**message, "message": f"{message['message'][:-2]}~"}]


def inventing(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    """A number that was not published yet."""
    if not _is_victim(subscriber, sequence):
        return [message]
    return [message, {**message, "message": message["message"].replace(".0000", ".7000")}]


def misdirecting(subscriber: Subscriber, sequence: int, message: Message) -> list[Message]:
    """One of another publisher's besides."""
    if not _is_victim(subscriber, sequence):
        return [message]
    return [message, {**message, "message": message["message"].replace("~0000", "~0001")}]


def _is_victim(subscriber: Subscriber, sequence: int) -> bool:
    return subscriber.number == 0 and sequence == VICTIM


async def run(program: Path, *words: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        program, *map(str, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def publish(program: Path, server: BadServer, *words: object) -> Message:
    """Measure a server; see ``generator/main.c`` for the words. Nothing is lost because the machine is slow."""
    async with server.listening() as port:
        status, output, errors = await run(
            program,
            "publish",
            *("--adapter", "dwsps", "--port", port, "--warm-up", 0, "--seconds", 0.2),
            *("--silence", 20, "--timeout", 60),
            *words,
        )
    assert status == 0, errors
    measurement: Message = json.loads(output)
    return measurement


def faults_of(measurement: Message) -> dict[str, int]:
    return {name: measurement["checked"][name] for name in FAULTS}


@pytest.mark.parametrize(
    "words",
    [
        "--subscribers 3 --in-flight 4",
        "--subscribers 3 --in-flight 4 --gathered 1",
        "--subscribers 1",
        "--groups 5",
        "--subscribers 2 --payload 4096 --in-flight 2",
        "--subscribers 2 --payload 20",
        "--subscribers 2 --payload 70000",
    ],
)
async def test_counts_every_delivery_of_a_faithful_server(program: Path, words: str) -> None:
    measurement = await publish(program, BadServer(faithful), *words.split())
    checked = measurement["checked"]
    assert faults_of(measurement) == NO_FAULTS
    assert checked["delivered"] == checked["expected"] > 0
    assert not measurement["stalled"]
    assert 0 < measurement["deliveries"] <= checked["delivered"]
    assert measurement["rate"] == pytest.approx(
        measurement["deliveries"] / measurement["seconds"], rel=1e-3
    )


CAUGHT: dict[Fault, dict[str, int]] = {
    losing: {"lost": 1},
    doubling: {"doubled": 1},
    repeating: {"doubled": 1},
    swapping: {"disordered": 1},
    damaging: {"damaged": 1, "lost": 1},
    shortening: {"damaged": 1, "lost": 1},
    inventing: {"damaged": 1},
    misdirecting: {"misdirected": 1},
}


async def test_catches_each_fault(program: Path) -> None:
    """All at once, since what is lost is waited for."""
    # The first window has all that the faults are about: it does not matter how many follow.
    words = ("--subscribers", 3, "--in-flight", VICTIM + 21, "--seconds", 0.05, "--silence", 3)
    measurements = await asyncio.gather(
        *(publish(program, BadServer(fault), *words) for fault in CAUGHT)
    )
    found = {
        fault.__name__: faults_of(measurement)
        for fault, measurement in zip(CAUGHT, measurements, strict=True)
    }
    assert found == {fault.__name__: NO_FAULTS | expected for fault, expected in CAUGHT.items()}


async def test_says_that_deliveries_stopped(program: Path) -> None:
    words = ("--subscribers", 3, "--in-flight", 4, "--seconds", 20, "--silence", 2)
    measurement = await publish(program, BadServer(losing), *words)
    assert measurement["stalled"]
    # The lost one kept the window where it was: no more than four were out from there on.
    assert measurement["checked"]["published"] == VICTIM + 4


async def test_delays_are_from_publish_to_delivery(program: Path) -> None:
    words = ("--subscribers", 2, "--seconds", 0.5)
    measurement = await publish(program, BadServer(faithful, delay=0.02), *words)
    delay = measurement["delay_us"]
    assert 20_000 <= delay["p50"] <= delay["p99"] <= delay["p99.9"]
    # One in flight at a time.
    assert measurement["checked"]["published"] <= measurement["seconds"] / 0.02 + 2


class AckingServer(BadServer):
    """Acknowledges every second publish."""

    async def answer(self, connection: ServerConnection) -> None:
        count = 0
        async for text in connection:
            frame = json.loads(text)
            if frame["type"] == "subscribe":
                some = self.subscribers.setdefault(frame["topic"], [])
                some.append(Subscriber(connection, 0))
                await connection.send(json.dumps({"type": "ack", "action": "subscribe"}))
                continue
            count += 1
            if count % 2 == 0:
                ack = {"type": "ack", "action": "publish", "topic": frame["topic"]}
                await connection.send(json.dumps(ack, separators=(",", ":")))
            # Last, since the generator waits for no acks.
            await self.deliver(frame)


async def test_acks_are_counted_by_themselves(program: Path) -> None:
    measurement = await publish(program, AckingServer(faithful), "--in-flight", 4)
    published = measurement["checked"]["published"]
    assert measurement["acknowledged"] == published // 2 > 0
    # Nothing was published before the measurement began, and next to nothing after it.
    acknowledged = measurement["ack_rate"] * measurement["seconds"]
    assert acknowledged == pytest.approx(published / 2, abs=4)


async def test_a_storm_opens_everything_twice_with_its_topics(program: Path) -> None:
    server = BadServer(faithful)
    async with server.listening() as port:
        words = ("--adapter", "dwsps", "--port", port, "--connections", 60, "--topics", 3)
        status, output, errors = await run(program, "storm", *words)
    assert status == 0, errors
    assert json.loads(output)["connections"] == 60
    assert (server.accepted, server.subscriptions) == (120, 360)
    assert len(server.subscribers["all"]) == 120
    assert len(server.subscribers["client59-2"]) == 2


# Recovery


class RecoveringServer(BadServer):
    """Keeps what is published, and replays it to the clients that resume, as far as ``fault`` lets it."""

    def __init__(self, fault: Fault, *, honest: bool = True) -> None:
        super().__init__(fault)
        self.honest = honest
        self.log: list[Message] = []
        self.resumes: list[Message] = []

    async def answer(self, connection: ServerConnection) -> None:
        number = self.accepted - 1
        async for text in connection:
            frame = json.loads(text)
            ack: Message = {"type": "ack", "action": frame["type"], "cursor": f"e:{len(self.log)}"}
            match frame["type"]:
                case "publish":
                    self.log.append(frame)
                case "resume":
                    self.resumes.append(frame)
                    await self.replay(Subscriber(connection, number % CLIENTS), frame)
                    whole = self.honest or number % CLIENTS > 0
                    ack["topics"] = {topic: {"recovered": whole} for topic in frame["topics"]}
            await connection.send(json.dumps(ack, separators=(",", ":")))

    async def replay(self, subscriber: Subscriber, request: Message) -> None:
        since = int(request["since"].removeprefix("e:"))
        for entry in self.log[since:]:
            if entry["topic"].split(".")[0] in request["topics"]:
                sequence = int(entry["message"].split(".")[1], 16)
                for message in self.fault(subscriber, sequence, entry):
                    await subscriber.connection.send(json.dumps(message))


# A number that the generator has a group for each, and one more connection, the publisher's.
CLIENTS = 61


async def recover(program: Path, server: RecoveringServer) -> tuple[Message, list[str]]:
    async with server.listening() as port:
        process = await asyncio.create_subprocess_exec(
            program,
            "recover",
            *map(str, ("--adapter", "dwsps", "--port", port, "--timeout", 20)),
            *map(str, ("--connections", CLIENTS - 1, "--topics", 3, "--missed", 12)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        held = []
        measurement: Message = {}
        while line := await process.stdout.readline():
            message = json.loads(line)
            if "held" in message:
                held.append(message["held"])
                process.stdin.write(b"\n")
            else:
                measurement = message
        assert await process.wait() == 0
    return measurement, held


async def test_a_recovery_counts_all_that_was_missed(program: Path) -> None:
    server = RecoveringServer(faithful)
    measurement, held = await recover(program, server)
    assert held == ["connected", "missed", "recovered"]
    assert measurement["recovered"] == measurement["connections"] == CLIENTS - 1
    assert faults_of(measurement) == NO_FAULTS
    checked = measurement["checked"]
    assert checked["delivered"] == checked["expected"] == 12 * (CLIENTS - 1)
    assert len(server.log) == checked["published"] == 12 * 50
    assert [resume["topics"][0] for resume in server.resumes] == ["all"] * (CLIENTS - 1)
    assert {resume["since"] for resume in server.resumes} == {"e:0"}


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (losing, {"lost": 1}),
        (doubling, {"doubled": 1}),
        (swapping, {"disordered": 1}),
        (damaging, {"damaged": 1, "lost": 1}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_a_recovery_catches(program: Path, fault: Fault, found: dict[str, int]) -> None:
    measurement, _ = await recover(program, RecoveringServer(fault))
    assert faults_of(measurement) == NO_FAULTS | found


async def test_a_recovery_counts_clients_that_were_not_recovered(program: Path) -> None:
    measurement, _ = await recover(program, RecoveringServer(faithful, honest=False))
    assert measurement["connections"] - measurement["recovered"] == 1


async def test_a_recovery_needs_a_cursor(program: Path) -> None:
    server = BadServer(faithful)
    async with server.listening() as port:
        words = ("--adapter", "dwsps", "--port", port, "--connections", 2)
        status, _, errors = await run(program, "recover", *words)
    assert (status, errors) == (1, "the server gave no cursor\n")


async def test_publishers_have_a_process_and_a_rate(program: Path) -> None:
    subscribers, publishers = BadServer(faithful), BadServer(faithful)
    publishers.subscribers = subscribers.subscribers
    async with publishers.listening() as port:
        words = ("--publish-port", port, "--groups", 2, "--rate", 50, "--in-flight", 8)
        measurement = await publish(program, subscribers, *words)
    assert faults_of(measurement) == NO_FAULTS
    assert (subscribers.accepted, publishers.accepted) == (2, 2)
    # Without a rate there would be thousands. A window is out at once if the machine stands still.
    published = measurement["checked"]["published"]
    assert 2 * 8 <= published <= 2 * 50 * (measurement["seconds"] + 1)


async def test_idle_connections_are_held_until_they_were_looked_at(program: Path) -> None:
    server = BadServer(faithful)
    async with server.listening() as port:
        words = ("--adapter", "dwsps", "--port", port, "--warming", 3, "--connections", 50)
        process = await asyncio.create_subprocess_exec(
            program,
            "idle",
            *map(str, words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for held, connections in (("warming", 3), ("all", 53)):
            assert json.loads(await process.stdout.readline()) == {"held": held}
            # The server may know of one only after the generator.
            await wait_until_async(lambda count=connections: server.accepted >= count)  # type: ignore[misc]
            assert server.accepted == connections
            process.stdin.write(b"\n")
        assert await process.wait() == 0


async def test_a_server_that_closes_is_no_result(program: Path) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.close(4100, "too slow")

    async with serve(close, HOST, 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        words = ("--adapter", "dwsps", "--port", port, "--subscribers", 1)
        status, output, errors = await run(program, "publish", *words)
    assert (status, output) == (1, "")
    assert "4100 too slow" in errors


async def test_a_server_that_is_silent_is_given_up(program: Path) -> None:
    async def ignore(connection: ServerConnection) -> None:
        with suppress(ConnectionClosedError):
            async for _ in connection:
                pass

    async with serve(ignore, HOST, 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        words = ("--adapter", "dwsps", "--port", port, "--timeout", 1)
        status, _, errors = await run(program, "publish", *words)
    assert (status, errors) == (1, "it took too long\n")


@pytest.mark.parametrize(
    "words",
    [
        "publish --port 1",
        "publish --adapter telepathy --port 1",
        "publish --adapter dwsps",
        "publish --adapter dwsps --port 1 --subscribers none",
        "publish --adapter dwsps --port 1 --payload 19",
        "--adapter dwsps --port 1",
        "publish --adapter dwsps --port 1 --in-flight 257",
    ],
)
async def test_generator_refuses(program: Path, words: str) -> None:
    status, output, errors = await run(program, *words.split())
    assert (status, output) == (1, "")
    assert errors


async def test_generator_has_help(program: Path) -> None:
    status, output, _ = await run(program, "--help")
    assert status == 0
    assert "--in-flight" in output


# Adapters

SENT = {
    "dwsps": [
        'subscribe {"type":"subscribe","topic":"a.b"}',
        'subscribe-below {"type":"subscribe","topic":"a.b"}',
        'follow {"type":"subscribe","topic":"a.b","last":0}',
        'resume {"type":"resume","since":"7","topics":["a.b","c"]}',
        'publish {"type":"publish","topic":"a.b","message":"~payload~"}',
    ],
    "socketio": [
        "greeting 40",
        'subscribe 420["subscribe","a.b"]',
        'subscribe-below 420["subscribe","a.b"]',
        'publish 42["publish",{"topic":"a.b","message":"~payload~"}]',
    ],
    "nats": [
        'greeting CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\nPING\r\n',
        "subscribe SUB a.b 1\r\nPING\r\n",
        "subscribe-below SUB a.b.> 2\r\nPING\r\n",
        'publish PUB a.b 11\r\n"~payload~"\r\n',
    ],
    "jetstream": [
        'greeting CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\nPING\r\n',
        "follow SUB a.b.> t0\r\nSUB _R.info.0 i0\r\nPUB $JS.API.STREAM.INFO.S _R.info.0 0\r\n\r\n",
        "resume "
        + "".join(
            f"SUB _D.{number}.x d{number}\r\nSUB _R.make.{number} m{number}\r\n"
            f"PUB $JS.API.CONSUMER.CREATE.S _R.make.{number} {length}\r\n"
            f'{{"stream_name":"S","config":{{"deliver_subject":"_D.{number}.x","filter_subject":"{topic}.*",'
            '"deliver_policy":"by_start_sequence","opt_start_seq":8,"ack_policy":"none",'
            '"replay_policy":"instant","mem_storage":true}}\r\n'
            for number, topic, length in ((1, "a.b", 202), (2, "c", 200))
        ),
        'publish SUB _R.ack.x a\r\nPUB a.b _R.ack.x 11\r\n"~payload~"\r\n',
    ],
    "fastapi_pubsub": [
        'subscribe {"request":{"method":"subscribe","arguments":{"topics":["a.b"]},"call_id":"subscribe"}}',
        'subscribe-below {"request":{"method":"subscribe","arguments":{"topics":["a.b"]},"call_id":"subscribe"}}',
        'publish {"request":{"method":"publish","arguments":{"topics":["a.b","a"],"data":"~payload~"},'
        '"call_id":"publish"}}',
    ],
}


@pytest.mark.parametrize("adapter", SENT)
def test_adapter_sends(program: Path, adapter: str) -> None:
    done = subprocess.run([program, "frames", "--adapter", adapter], capture_output=True)
    assert done.stdout.decode() == "".join(f"{line}\n" for line in SENT[adapter])


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_contestant_has_an_adapter(contestant: Contestant) -> None:
    assert contestant.adapter in SENT


READ = [
    ("dwsps", '{"type":"ack","action":"subscribe","topic":"a"}', "subscribed"),
    (
        "dwsps",
        '{"type":"ack","action":"subscribe","topic":"a","cursor":"e-1:12"}',
        "cursor e-1:12\nsubscribed",
    ),
    (
        "dwsps",
        '{"type":"ack","action":"resume","cursor":"e:9","topics":{"a":{"recovered":true},"b":{"recovered":false},'
        '"c":{"recovered":true}}}',
        "cursor e:9\nresumed 2",
    ),
    ("dwsps", '{"type":"ack","action":"publish","topic":"a","offset":7}', "acknowledged"),
    ("dwsps", '{"type":"publish","message":"~payload~","context":"a"}', "delivered ~payload~"),
    ("dwsps", '{"type": "publish", "message": "~payload~"}', "delivered ~payload~"),
    ("dwsps", '{"type":"error","code":"forbidden"}', "failed neither a delivery nor an ack"),
    ("socketio", '0{"sid":"x","pingInterval":25000}', ""),
    ("socketio", '40{"sid":"x"}', "ready"),
    ("socketio", "430[]", "subscribed"),
    ("socketio", "2", "answer 3"),
    ("socketio", '42["publish",{"topic":"a","message":"~payload~"}]', "delivered ~payload~"),
    ("socketio", '44{"message":"no"}', "failed an unknown packet"),
    ("nats", 'INFO {"server_id":"x"} \r\n', ""),
    ("nats", "PONG\r\n", "ready"),
    ("nats", "PONG\r\nPONG\r\n", "ready\nsubscribed"),
    ("nats", "PING\r\n", "answer PONG\r\n"),
    ("nats", 'MSG a.b 1 11\r\n"~payload~"\r\n', "delivered ~payload~"),
    (
        "nats",
        'MSG a 1 9\r\n"~first~"\r\nMSG a 1 10\r\n"~second~"\r\n',
        "delivered ~first~\ndelivered ~second~",
    ),
    ("nats", "MSG a.b 1 11\r\n'~payload~'\r\n", "failed not a JSON string"),
    (
        "jetstream",
        'MSG _R.info.0 i0 40\r\n{"state":{"messages":7,"last_seq":4711}}\r\n',
        "cursor 4711\nsubscribed",
    ),
    ("jetstream", 'MSG _R.ack.x a 24\r\n{"stream":"S", "seq":47}\r\n', "acknowledged"),
    (
        "jetstream",
        'MSG _D.1.x d1 $JS.ACK.S.c.1.57.3.1700.1 11\r\n"~payload~"\r\n',
        "delivered ~payload~",
    ),
    (
        "jetstream",
        'MSG _R.make.1 m1 28\r\n{"error":{"code":503,"x":1}}\r\n',
        "failed an error",
    ),
    ("nats", "-ERR 'Slow Consumer'\r\n", "failed an unknown line"),
    (
        "fastapi_pubsub",
        '{"request":null,"response":{"result":true,"result_type":"bool","call_id":"subscribe"}}',
        "subscribed",
    ),
    (
        "fastapi_pubsub",
        '{"request":null,"response":{"result":true,"result_type":"bool","call_id":"publish"}}',
        "",
    ),
    (
        "fastapi_pubsub",
        '{"response":{"result":false,"call_id":"subscribe"}}',
        "failed neither a delivery nor a good result",
    ),
    (
        "fastapi_pubsub",
        '{"request":{"method":"notify","arguments":{"subscription":{"id":"y","topic":"a"},"data":"~payload~"},'
        '"call_id":"0a1b"},"response":null}',
        "delivered ~payload~\n"
        'answer {"response":{"result":"None","result_type":"str","call_id":"0a1b"}}',
    ),
]


def read(program: Path, adapter: str, message: str) -> str:
    done = subprocess.run(
        [program, "read", "--adapter", adapter], input=message.encode(), capture_output=True
    )
    return done.stdout.decode()


@pytest.mark.parametrize(("adapter", "message", "told"), READ)
def test_adapter_reads(program: Path, adapter: str, message: str, told: str) -> None:
    assert read(program, adapter, message) == (f"{told}\n" if told else "") + "left 0\n"


@pytest.mark.parametrize("cut", [1, 5, 14, 15, 20, 26])
def test_nats_leaves_the_beginning_of_what_has_not_come_yet(program: Path, cut: int) -> None:
    whole = 'MSG a.b 1 11\r\n"~payload~"\r\n'
    assert read(program, "nats", whole[:cut]) == f"left {cut}\n"
    assert read(program, "nats", whole + whole[:cut]) == f"delivered ~payload~\nleft {cut}\n"


# The yardstick

YARDSTICK = next(contestant for contestant in CONTESTANTS if contestant.yardstick)


@pytest.fixture(scope="module")
def ceiling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The yardstick, compiled."""
    require(generator.COMPILER)
    return generator.build_ceiling(tmp_path_factory.mktemp("ceiling"))


@pytest.fixture
def yardstick(ceiling: Path, tmp_path: Path) -> Iterator[Child]:
    port = free_port()
    command = [str(ceiling), str(port)]
    with Child.all_closed() as children:
        children.append(Child("ceiling", command, port=port, env={}, folder=tmp_path))
        yield children[0].start()


@pytest.fixture
def connect(yardstick: Child) -> Iterator[Callable[[], RawClient]]:
    """Opens a connection to the yardstick."""
    with ExitStack() as stack:

        def connect() -> RawClient:
            client = RawClient(yardstick.port)
            stack.enter_context(client.socket)
            client.open("/")
            return client

        yield connect


def subscribe(client: RawClient, topic: str) -> None:
    client.send(subscribe_frame(topic))
    assert without_time(received(client)) == ack("subscribe", topic)


def subscribe_frame(topic: str) -> bytes:
    return frame(TEXT, f'{{"type":"subscribe","topic":"{topic}"}}'.encode())


def publish_frame(topic: str, message: object) -> bytes:
    text = json.dumps(message, separators=(",", ":"))
    return frame(TEXT, f'{{"type":"publish","topic":"{topic}","message":{text}}}'.encode())


def received(client: RawClient) -> Message:
    opcode, payload = client.receive()
    assert opcode == TEXT
    message: Message = json.loads(payload)
    return message


def without_time(message: Message) -> Message:
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message["timestamp"])
    return {name: value for name, value in message.items() if name != "timestamp"}


def ack(action: str, topic: str) -> Message:
    return {"type": "ack", "action": action, "topic": topic}


def delivery(topic: str, message: object) -> Message:
    return {"type": "publish", "topic": topic, "message": message, "context": topic}


def test_yardstick_delivers_to_the_topics_subscribers(connect: Callable[[], RawClient]) -> None:
    publisher, *subscribers = (connect() for _ in range(4))
    for subscriber, topic in zip(subscribers, ("news", "newsroom", "news"), strict=True):
        subscribe(subscriber, topic)
    for topic in ("news", "new", "news.uk", "newsroom"):
        publisher.send(publish_frame(topic, {"to": topic}))
        assert without_time(received(publisher)) == ack("publish", topic)
    # What each of them gets next is the answer to this: it got nothing else before.
    for subscriber, topic in zip(subscribers, ("news", "newsroom", "news"), strict=True):
        assert without_time(received(subscriber)) == delivery(topic, {"to": topic})
        subscribe(subscriber, "other")


def test_yardstick_gives_a_publisher_its_own_copies_before_each_ack(
    connect: Callable[[], RawClient],
) -> None:
    client = connect()
    subscribe(client, "a")
    subscribe(client, "a")  # is one subscription
    subscribe(client, "b")
    topics = ("a", "a", "b", "c", "a", "b")
    client.send(b"".join(publish_frame(topic, number) for number, topic in enumerate(topics)))
    for number, topic in enumerate(topics):
        if topic != "c":
            assert without_time(received(client)) == delivery(topic, number)
        assert without_time(received(client)) == ack("publish", topic)


def test_yardstick_keeps_the_order_across_topics(connect: Callable[[], RawClient]) -> None:
    subscriber, neighbour, publisher = (connect() for _ in range(3))
    for topic in ("a", "b"):
        subscribe(subscriber, topic)
    subscribe(neighbour, "b")
    # What a subscriber gets within a turn lies together, or does not: "c" is for nobody, and between.
    topics = "aabcbcaab"
    publisher.send(b"".join(publish_frame(topic, number) for number, topic in enumerate(topics)))
    expected = [delivery(topic, number) for number, topic in enumerate(topics) if topic != "c"]
    assert [without_time(received(subscriber)) for _ in expected] == expected
    expected = [one for one in expected if one["topic"] == "b"]
    assert [without_time(received(neighbour)) for _ in expected] == expected


def test_yardstick_reads_frames_in_pieces(connect: Callable[[], RawClient]) -> None:
    client = connect()
    subscribe(client, "a")
    long = "x" * 4096
    whole = publish_frame("a", long) + publish_frame("a", 2)
    client.send(*(whole[at : at + 1] for at in range(200)), whole[200:4110], whole[4110:])
    for message in (long, 2):
        assert without_time(received(client)) == delivery("a", message)
        assert without_time(received(client)) == ack("publish", "a")


def test_yardstick_forgets_who_has_left(connect: Callable[[], RawClient]) -> None:
    publisher, gone, stays = (connect() for _ in range(3))
    subscribe(gone, "a")
    subscribe(stays, "a")
    gone.socket.close()
    successor = connect()  # in the same place
    subscribe(successor, "b")
    for topic in ("a", "b"):
        publisher.send(publish_frame(topic, 1))
        assert without_time(received(publisher)) == ack("publish", topic)
    assert without_time(received(stays)) == delivery("a", 1)
    assert without_time(received(successor)) == delivery("b", 1)


def test_yardstick_loses_nothing_of_who_reads_late_and_lets_nobody_wait(
    connect: Callable[[], RawClient],
) -> None:
    late, publisher, prompt = (connect() for _ in range(3))
    for subscriber in (late, prompt):
        subscribe(subscriber, "a")
    filling = "x" * 60_000
    count = 300  # more than the kernel holds
    for number in range(count):
        publisher.send(publish_frame("a", f"{number}{filling}"))
        assert without_time(received(publisher)) == ack("publish", "a")
        assert received(prompt)["message"] == f"{number}{filling}"
    for number in range(count):
        assert received(late)["message"] == f"{number}{filling}"


@pytest.mark.processes
def test_yardstick_loses_nothing_under_its_loads() -> None:
    require(generator.COMPILER)
    loads = [load for load in all_loads(quick=False) if YARDSTICK.takes(load)]
    assert {load.name for load in loads} == set(YARDSTICK.only)
    pace = tournament.Pace(rounds=1, warm_up=0.02, seconds=0.05, timeout=60)

    results = tournament.run([YARDSTICK], loads, pace, quick=True, say=lambda line: None)

    assert not results.failures
    for load in loads:
        figure = results.figure(YARDSTICK.name, load)
        assert figure is not None
        assert (figure.faults, figure.stalled) == ({}, False)
        assert figure.deliveries > 0


# The whole of it


@pytest.mark.processes
def test_help_names_contestants_and_loads() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = "".join(done.stdout.split())  # lines break after hyphens, too
    assert "group-send-redis" in text
    assert "fan-1000-8" in text


def test_measures_a_real_server_and_leaves_out_who_is_not_there(program: Path) -> None:
    daphne = next(contestant for contestant in CONTESTANTS if contestant.name == "daphne")
    absent = Contestant(
        "absent", "Absent", ("nowhere",), "of no use", programs=("no-such-program",)
    )
    broken = Contestant(
        "broken", "Broken", (sys.executable, "-c", "raise SystemExit('cannot')"), ""
    )
    loads = [
        Load("idle", "5 idle", "idle", {"connections": 5}),
        Load("levels", "levels", "publish", {"subscribers": 3, "levels": 3, "in-flight": 2}),
        Load("storm", "storm", "storm", {"connections": 5, "topics": 3}),
    ]
    pace = tournament.Pace(rounds=1, warm_up=0.05, seconds=0.3, timeout=60)
    said: list[str] = []

    results = tournament.run([absent, broken, daphne], loads, pace, quick=True, say=said.append)

    assert results.left_out == {"absent": "no-such-program is not installed"}
    assert set(results.failures) == {"broken"}
    assert "cannot" in results.failures["broken"]["levels"]
    figures = {load.name: results.figure("daphne", load) for load in loads}
    assert all(figure is not None and not figure.faults for figure in figures.values())
    assert all(
        figure is not None and figure.value > 0 for figure in (figures["levels"], figures["storm"])
    )
    assert "Absent is left out: no-such-program is not installed" in said


# Results and report


def results_of(values: dict[str, list[float]], *, load: str = "fan-100-8") -> Results:
    found = Results(
        quick=False,
        started="2026-01-01 00:00 UTC",
        rounds=3,
        seconds=1.5,
        machine={"processor": "a fast one"},
        versions={"Python": "3"},
        loads=[one for one in all_loads(quick=False) if one.name == load],
    )
    for contestant, rates in values.items():
        for rate in rates:
            found.add(contestant, found.loads[0], measured(rate))
    return found


def measured(rate: float, **checked: int) -> generator.Measurement:
    return {
        "rate": rate,
        "bytes_each": 1024 * rate,
        "stalled": False,
        "delay_us": {"p50": 100.0, "p99": 200.0, "p99.9": 300.0},
        "checked": {**NO_FAULTS, "delivered": 100, **checked},
        "busy": {"generator": 0.25, "server": 0.99, "others": 0.01},
    }


def test_ratios_are_of_medians() -> None:
    results = results_of({"fastlane": [1000, 90, 80], "ws": [10, 1, 11]})
    assert results.ratio("fastlane", "ws", results.loads[0]) == 9.0


def test_results_survive_their_file(tmp_path: Path) -> None:
    results = results_of({"fastlane": [3, 1, 2]})
    results.fail("ws", results.loads[0], "it took too long")
    results.save(tmp_path / "results" / "one.json")
    assert Results.read(tmp_path / "results" / "one.json") == results


@pytest.mark.parametrize(
    ("load", "ours", "rivals", "is_met"),
    [
        ("fan-100-8", 80, 10, True),
        ("fan-100-8", 79, 10, False),
        ("idle", 12, 10, True),  # of memory less is more
        ("idle", 13, 10, False),
    ],
)
def test_goal_is_met(load: str, ours: float, rivals: float, is_met: bool) -> None:
    rival = "nats" if load == "idle" else "ws"
    results = results_of({"fastlane": [ours], rival: [rivals]}, load=load)
    goal = next(one for one in GOALS if (one.load, one.rival) == (load, rival))
    assert goal.reached(results) == (ours / rivals, is_met)


def test_goal_without_a_rival_is_in_the_unit_of_the_load() -> None:
    results = results_of({"fastlane": [1999]}, load="storm")
    goal = next(one for one in GOALS if (one.load, one.ours) == ("storm", "fastlane"))
    assert goal.reached(results) == (1999, False)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert GOALS[0].reached(results_of({"fastlane": [80]})) is None


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_goal_names_what_there_is(goal: goals.Goal) -> None:
    names = {contestant.name for contestant in CONTESTANTS}
    assert goal.load in {load.name for load in all_loads(quick=False)}
    assert goal.ours in names
    assert goal.rival is None or goal.rival in names


def test_report_shows_figures_ratios_and_goals() -> None:
    text = report.text(results_of({"fastlane": [1_250_000], "ws": [110_000]}), "A remark.\n")
    assert "| **dwsps, fast lane** | 1.25 M |" in text
    assert "| Node ws | 0.10 · 0.20 · 0.30 |" in text
    assert "| 1 to 100, 8 in flight | dwsps, fast lane | ≥ 8 times Node ws | — | 11 | yes |" in text
    assert "none lost" in text
    assert "A remark." in text
    # The yardstick was not measured.
    assert YARDSTICK.title not in text
    assert report.MOST not in text


def test_report_says_which_goals_are_beyond_the_yardstick() -> None:
    rates: dict[str, list[float]] = {
        "fastlane": [900],
        "ws": [100],
        "nats": [900],
        "ceiling": [1500],
    }
    results = results_of(rates)
    results.loads += results_of({}, load="storm").loads
    results.add("fastlane", results.loads[1], measured(2500))
    text = report.text(results)
    assert "| dwsps, fast lane | ≥ 8 times Node ws | 15 | 9.00 | yes |" in text
    assert "| dwsps, fast lane | ≥ 1.8 times nats-server | **1.67** | 1.00 | **no** |" in text
    assert "| dwsps, fast lane | ≥ 2 k reconnects/s | — | 2.5 k reconnects/s | yes |" in text
    assert report.MOST in text


def test_report_shows_the_yardstick_last_and_as_no_rival() -> None:
    results = results_of({"ceiling": [2_000_000], "fastlane": [1_250_000], "ws": [110_000]})
    text = report.text(results)
    rates, _, rest = text.partition("## Delays")
    assert rates.splitlines()[-2:] == [
        f"| *yardstick, no rival: {YARDSTICK.title}* | *2 M* |",
        "",
    ]
    delays, _, rest = rest.partition("## Ratios")
    ratios, _, rest = rest.partition("## Goals")
    assert YARDSTICK.title not in delays + ratios
    assert f"The generator can take at least what {YARDSTICK.title} sends." in rest
    assert YARDSTICK.title not in report.chart(results)


def test_report_shows_who_was_recovered_and_what_it_took() -> None:
    results = results_of({}, load="recovery")
    load = results.loads[0]
    recovery = {"connections": 5000, "recovered": 5000, "memory_rise": 3 * 2**20}
    results.add("fastlane", load, measured(4500) | recovery)
    results.add("daphne", load, measured(900) | recovery | {"recovered": 4998})
    text = report.text(results)
    assert f"| **dwsps, fast lane** | {load.title} | 4.5 k | 220 | all | 3.0 |" in text
    assert f"| **dwsps, Daphne** | {load.title} | 900 | 1100 | all but 2 | 3.0 |" in text
    assert "≥ 4 k recoveries/s | — | 4.5 k recoveries/s | yes |" in text


def test_report_shows_what_a_reconnect_costs_the_server() -> None:
    text = report.text(results_of({"fastlane": [4400, 4500, 9900], "ws": [9000]}, load="storm"))
    assert "| **dwsps, fast lane** | 4.5 k | 220 |" in text
    assert "| Node ws | 9 k | 110 |" in text


def test_report_compares_the_brokers_by_their_acks() -> None:
    results = results_of({}, load="acks-1")
    [load] = results.loads
    for name, rate in {"fastlane": 90_000.0, "on-sqlite": 30_000.0}.items():
        results.add(name, load, measured(1) | {"ack_rate": rate})
    text = report.text(results)
    assert "| **dwsps, fast lane** | 90 k | 0.10 · 0.20 · 0.30 |" in text
    assert "| **dwsps, database (SQLite)** | 30 k | 0.10 · 0.20 · 0.30 |" in text
    # Rivals need not acknowledge.
    assert "## Ratios" not in text
    assert [one.name for one in CONTESTANTS if one.takes(load)] == [
        *("fastlane", "on-sqlite", "on-postgres", "on-redis")
    ]


def test_report_compares_what_joins_two_processes() -> None:
    results = results_of({}, load="across-1")
    results.loads += results_of({}, load="across-light").loads
    for load in results.loads:
        results.add("two-redis", load, measured(40_000))
        results.add("two-layer", load, measured(20_000))
    text = report.text(results)
    assert "| **two processes, Redis** | 40 k | 0.10 · 0.20 · 0.30 |" in text
    assert "| two processes, channel layer | 20 k (2.00) | 0.10 · 0.20 · 0.30 (1.00) |" in text
    # They are no rivals of servers of one process.
    assert "## Deliveries a second" not in text


def test_report_does_not_hide_what_went_wrong() -> None:
    results = results_of({"fastlane": [10], "nats": [10]})
    load = results.loads[0]
    results.add("fastlane", load, measured(10, lost=3))
    results.cells["nats"][load.name][0]["busy"]["others"] = 0.5
    results.fail("ws", load, "it took\ntoo long")
    results.left_out["socketio"] = "npm has a day off"
    text = report.text(results)
    assert "| **dwsps, fast lane** | 10 (!) |" in text
    assert "dwsps, fast lane, 1 to 100, 8 in flight: 3 lost" in text
    assert "none lost" not in text
    assert "**The machine was not quiet**" in text
    assert "Node ws failed at 1 to 100, 8 in flight: it took too long" in text
    assert "Left out: socket.io, because npm has a day off" in text


def test_chart_has_a_bar_for_everyone_measured() -> None:
    results = results_of({"fastlane": [200], "nats": [100]})
    results.add("ws", results.loads[0], measured(50))
    results.fail("ws", results.loads[0], "it took too long")
    svg = ElementTree.fromstring(report.chart(results))
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.get("width", "")) for bar in svg.iter(f"{space}rect")][1:]
    assert len(widths) == 2  # the one that failed has its name, and none
    assert widths[0] == 2 * widths[1]
    assert "Node ws" in {text.text for text in svg.iter(f"{space}text")}


@pytest.mark.processes
def test_rechecks_are_counted_and_reach_everybody() -> None:
    nothing, *rechecks, disconnected = rows = recheck_load.run(CLIENTS, "Async")
    assert nothing.delays
    assert disconnected.questions == 0
    for row in rechecks:
        assert row.questions == CLIENTS
        assert 1 <= row.most_at_once <= MAX_AT_ONCE
        assert 0 < row.held_back < row.decided
    assert len(recheck_load.table(rows).splitlines()) == 2 + len(rows)
