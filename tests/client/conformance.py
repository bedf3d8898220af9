"""The runner of the cases in tests/conformance: a scripted server, and applications that record what they see."""

import asyncio
import json
import threading
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request

from dwsps_channels.client import (
    Ack,
    BlockingClient,
    BlockingSubscription,
    Client,
    ClientError,
    Message,
    NoGrant,
    ServerError,
    Subscription,
)
from dwsps_channels.client.text_source import TextSource
from tests.client.scripted import NOW, Frame
from tests.processes import HOST, ROOT, wait_until, wait_until_async

Step = dict[str, Any]
Case = dict[str, Any]

CASES: list[Case] = [
    case
    for name in ("recovery", "access")
    for case in json.loads((ROOT / f"tests/conformance/{name}.json").read_text())
]
END = "the.end"


async def run(case: Case, make: "type[Application]") -> None:
    """Run the steps of one case, and check that nothing else happened."""
    server = await ScriptedServer().start()
    query = case.get("query", "")
    url = f"{server.url}?{query}" if query else server.url
    app = make(url, credential(case.get("token")))
    app.start()
    try:
        steps = [step for short in case["steps"] for step in expand(short)]
        for position, step in enumerate(steps):
            try:
                await _act(step, server, app)
            except Exception as error:
                error.add_note(f"step {position + 1}: {json.dumps(step)[:300]}")
                raise
        if app.client.state != "closed":
            await app.make_call({"client": "publish", "topic": END, "message": None, "as": END})
            last = await server.next()
            assert (last["type"], last["topic"]) == ("publish", END)
            await server.acks({"with": {}})
            await wait_until_async(lambda: app.endings[END])
        app.check_nothing_else()
    finally:
        await app.stop()
        await server.stop()


async def _act(step: Step, server: "ScriptedServer", app: "Application") -> None:
    if "client" in step:
        return await app.make_call(step)
    actor = "server" if "server" in step else "app"
    name = step[actor].replace(" ", "_")
    await getattr(server if actor == "server" else app, name)(step)


def expand(step: Step) -> list[Step]:
    """Write out the shorthands of a step."""
    if "times" not in step:
        return [_written(step, 0)]
    numbers = range(step["times"])
    return [_written(each, number) for number in numbers for each in step["steps"]]


def _written(value: Any, number: int) -> Any:
    if isinstance(value, str):
        return value.replace("{i}", str(number)).replace("{pad}", "x" * 240)
    if isinstance(value, list):
        written: list[Any] = []
        for entry in value:
            if isinstance(entry, dict) and "each" in entry:
                written += _names(entry)
            else:
                written.append(_written(entry, number))
        return written
    if isinstance(value, dict) and "each" in value:
        return dict.fromkeys(_names(value), value["is"])
    if isinstance(value, dict):
        return {_written(name, number): _written(entry, number) for name, entry in value.items()}
    return value


def _names(value: dict[str, Any]) -> list[str]:
    return [_written(value["each"], number) for number in range(value["from"], value["to"])]


def credential(given: str | list[str | None] | None) -> TextSource | None:
    """Return a token or a grant: a text, or a function that gives what a list has, one for each call."""
    if not isinstance(given, list):
        return given
    left = deque(given)

    async def give() -> str:
        if (text := left.popleft()) is None:
            raise LookupError("none today")
        return text

    return give


class ScriptedServer:
    """Sends what the steps say, and keeps the frames that come in until a step takes them."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._wanted = asyncio.Semaphore(0)
        self._accepted: deque[tuple[ServerConnection, str]] = deque()
        self._session: ServerConnection | None = None
        self._frames: dict[ServerConnection, deque[Frame]] = defaultdict(deque)
        self._named: dict[str | None, Frame] = {}
        self._keys: dict[str, str] = {}
        self._last: Frame = {}

    async def start(self) -> "ScriptedServer":
        self._server = await serve(
            self._serve,
            HOST,
            0,
            compression=None,
            ping_interval=None,
            process_request=self._hold_handshake,
        )
        return self

    async def _hold_handshake(self, session: ServerConnection, request: Request) -> None:
        """Steps before ``accepts`` happen while there is no connection."""
        await self._wanted.acquire()

    @property
    def url(self) -> str:
        assert self._server is not None
        [listening] = self._server.sockets
        return f"ws://{HOST}:{listening.getsockname()[1]}/ws/"

    async def stop(self) -> None:
        assert self._server is not None
        self._wanted.release()
        self._server.close(close_connections=False)
        for session in self._frames:
            session.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, session: ServerConnection) -> None:
        assert session.request is not None
        frames = self._frames[session]
        self._accepted.append((session, session.request.path.partition("?")[2]))
        with suppress(ConnectionClosed):
            async for data in session:
                frames.append(json.loads(data))

    async def next(self) -> Frame:
        assert self._session is not None
        frames = self._frames[self._session]
        await wait_until_async(lambda: frames, what="a frame")
        self._last = frames.popleft()
        return self._last

    # Steps

    async def accepts(self, step: Step) -> None:
        self._wanted.release()
        await wait_until_async(lambda: self._accepted, what="a connection")
        self._session, query = self._accepted.popleft()
        assert query == step.get("query", "")

    async def gets(self, step: Step) -> None:
        got = dict(await self.next())
        self._named[step.get("as")] = self._last
        assert got.pop("id") is not None
        got.pop("timestamp", None)
        expected = dict(step["frame"])
        if "key" in expected:
            name = expected["key"]
            if name not in self._keys:
                assert got["key"] not in self._keys.values()
                self._keys[name] = got["key"]
            expected["key"] = self._keys[name]
        assert got == expected

    async def acks(self, step: Step) -> None:
        await self._answer("ack", step)

    async def refuses(self, step: Step) -> None:
        await self._answer("error", step)

    async def delivers(self, step: Step) -> None:
        frame = {"type": "publish", "context": step["topic"]}
        fields = ("topic", "context", "message", "offset")
        await self._send(frame | {name: step[name] for name in fields if name in step})

    async def sends(self, step: Step) -> None:
        await self._send(step["frame"])

    async def breaks(self, step: Step) -> None:
        assert self._session is not None
        self._session.transport.abort()

    async def closes(self, step: Step) -> None:
        assert self._session is not None
        await self._session.close(step["code"])

    async def _answer(self, type: str, step: Step) -> None:
        frame = self._named[step["to"]] if "to" in step else self._last
        answer = {"type": type, "action": frame["type"], "id": frame["id"]}
        if "topic" in frame:
            answer["topic"] = frame["topic"]
        await self._send(answer | step["with"])

    async def _send(self, frame: Frame) -> None:
        assert self._session is not None
        await self._session.send(json.dumps({"timestamp": NOW, **frame}))


class Application(ABC):
    """Makes the calls of the steps, and records what comes of them."""

    def __init__(self, url: str, token: TextSource | None) -> None:
        self.options: dict[str, Any] = {
            "token": token,
            "token_in": "frame",
            "min_delay": 0.005,
            "max_delay": 0.02,
            "on_reset": lambda topics: self.told.append(sorted(topics)),
        }
        self.url = url
        self.got: dict[str, list[Any]] = {}
        self.inside: dict[str, list[Step]] = defaultdict(list)
        self.endings: dict[str, list[Ack | Subscription | ClientError | None]] = defaultdict(list)
        self.told: list[list[str]] = []
        self.reset_topics: list[str] = []
        self.refusals: dict[str, str] = {}
        self.expected: dict[str, Any] = {"resets": [], "refused": {}}

    @property
    @abstractmethod
    def client(self) -> Client | BlockingClient: ...

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    async def begin(self, name: str | None, step: Step) -> None:
        """Make the call, without waiting for its answer; record its end."""

    async def make_call(self, step: Step) -> None:
        if "inside" in step:
            self.inside[step["inside"]].append(
                {name: step[name] for name in step if name != "inside"}
            )
            return
        name = step.get("as")
        if name is not None:
            self.endings[name] = []
        if step["client"] == "subscribe":
            self.got[name or step["topic"]] = []
        await self.begin(name, step)

    def start_of(self, step: Step) -> dict[str, Any]:
        """The options of a subscribe."""
        since = step.get("since")
        return {
            "since": self.client.cursor if since == "$cursor" else since,
            "last": step.get("last"),
            "grant": credential(step.get("grant")),
            "on_reset": lambda: self.reset_topics.append(step["topic"]),
        }

    def handle(self, step: Step, message: Any) -> list[Step]:
        """Record a message; return the calls to make inside the handler."""
        name = step["as"] if "as" in step else step["topic"]
        self.got[name].append(message)
        return [later for later in self.inside[name] if later["at"] == message]

    def note_end(self, name: str | None, step: Step, error: ClientError) -> None:
        """Record that a call failed, or that a subscription ended with an error."""
        if isinstance(error, ServerError | NoGrant) and step["client"] == "subscribe":
            self.refusals[step["topic"]] = error.code
        if name is not None:
            self.endings[name].append(error)

    def check_nothing_else(self) -> None:
        for name, got in self.got.items():
            assert got == self.expected.get(name, []), name
        assert self.told == self.expected["resets"]
        assert self.refusals == self.expected["refused"]

    # Steps

    async def messages(self, step: Step) -> None:
        self.expected[step["of"]] = step["are"]
        await _same(lambda: self.got.get(step["of"]), step["are"])

    async def resets(self, step: Step) -> None:
        self.expected["resets"] = step["are"]
        await _same(lambda: self.told, step["are"])
        topics = sorted(topic for topics in step["are"] for topic in topics)
        await _same(lambda: sorted(self.reset_topics), topics)

    async def refused(self, step: Step) -> None:
        self.expected["refused"] = step["are"]
        await _same(lambda: self.refusals, step["are"])

    async def settles(self, step: Step) -> None:
        endings = self.endings[step["call"]]
        await wait_until_async(lambda: endings, what=f"an end of {step['call']}")
        assert not isinstance(endings[0], ClientError)
        if step.get("offset") is not None:
            assert isinstance(endings[0], Ack)
            assert endings[0].offset == step["offset"]

    async def fails(self, step: Step) -> None:
        endings = self.endings[step["call"]]
        await wait_until_async(lambda: endings, what=f"an end of {step['call']}")
        assert getattr(endings[0], "code", endings[0]) == step["code"]

    async def cursor(self, step: Step) -> None:
        await _same(lambda: self.client.cursor, step["is"])

    async def is_closed(self, step: Step) -> None:
        await _same(lambda: self.client.state, "closed")
        assert getattr(self.client.last_error, "code", None) == step["code"]

    async def loses_the_connection(self, step: Step) -> None:
        await _same(lambda: self.client.state, "reconnecting")


async def _same(get: Callable[[], Any], expected: Any) -> None:
    """Wait until a value is as expected; if it never is, show both."""
    try:
        await wait_until_async(lambda: get() == expected)
    except AssertionError:
        assert get() == expected


class AsyncApplication(Application):
    """One with the asyncio client."""

    def start(self) -> None:
        self._client = Client(self.url, **self.options)
        self._client.connect()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def client(self) -> Client:
        return self._client

    async def stop(self) -> None:
        await self._client.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def begin(self, name: str | None, step: Step) -> None:
        self._tasks.add(asyncio.create_task(self._finish(name, step)))
        await asyncio.sleep(0)

    async def _finish(self, name: str | None, step: Step) -> None:
        call: Callable[[Step], Awaitable[Any]] = getattr(self, f"_{step['client']}")
        try:
            ending = await call(step)
        except ClientError as error:
            return self.note_end(name, step, error)
        if name is not None:
            self.endings[name].append(ending)
        if isinstance(ending, Subscription):
            await self._read(step, ending)

    async def _subscribe(self, step: Step) -> Subscription:
        subscription: Subscription
        subscription = self._client.subscribe(step["topic"], **self.start_of(step))
        await subscription.begin()
        return subscription

    async def _read(self, step: Step, subscription: Subscription) -> None:
        try:
            async for message in subscription:
                for later in self.handle(step, message.message):
                    await self.make_call(later)
        except ClientError as error:
            self.note_end(None, step, error)

    async def _unsubscribe(self, step: Step) -> None:
        await self._client.unsubscribe(step["topic"])

    async def _publish(self, step: Step) -> Ack:
        return await self._client.publish(step["topic"], step["message"])


class BlockingApplication(Application):
    """One with the client for threads: a thread for each call, and for each reader."""

    def start(self) -> None:
        self._client = BlockingClient(self.url, **self.options)
        self._threads: list[threading.Thread] = []
        self._readers: dict[str, list[BlockingSubscription]] = defaultdict(list)
        self._begun = threading.Semaphore(0)
        # Tells when a call is the client's: the next one comes after it.
        submit = self._client._thread._submit

        def submitted(coroutine: Any) -> Any:
            try:
                return submit(coroutine)
            finally:
                self._begun.release()

        self._client._thread._submit = submitted  # type: ignore[method-assign]

    @property
    def client(self) -> BlockingClient:
        return self._client

    async def stop(self) -> None:
        await asyncio.to_thread(self._client.close)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 30)
            assert not thread.is_alive()

    async def begin(self, name: str | None, step: Step) -> None:
        while self._begun.acquire(blocking=False):
            pass
        self._run(name, step)
        await asyncio.to_thread(self._begun.acquire, timeout=30)

    def _run(self, name: str | None, step: Step) -> None:
        thread = threading.Thread(target=partial(self._finish, name, step))
        self._threads.append(thread)
        thread.start()

    def _finish(self, name: str | None, step: Step) -> None:
        call: Callable[[Step], Any] = getattr(self, f"_{step['client']}")
        try:
            ending = call(step)
        except ClientError as error:
            return self.note_end(name, step, error)
        if name is not None:
            self.endings[name].append(ending)
        if isinstance(ending, BlockingSubscription):
            self._read(step, ending)

    def _subscribe(self, step: Step) -> BlockingSubscription:
        subscription = self._client.subscribe(step["topic"], **self.start_of(step))
        self._readers[step["topic"]].append(subscription)
        return subscription

    def _read(self, step: Step, subscription: BlockingSubscription) -> None:
        message: Message
        try:
            for message in subscription:
                for later in self.handle(step, message.message):
                    name = later.get("as")
                    if later["client"] == "subscribe":
                        self.got[name or later["topic"]] = []
                    self._run(name, later)
        except ClientError as error:
            self.note_end(None, step, error)

    def _unsubscribe(self, step: Step) -> None:
        wait_until(lambda: self._readers[step["topic"]])
        for reader in self._readers.pop(step["topic"]):  # a later one stays
            reader.unsubscribe()

    def _publish(self, step: Step) -> Ack:
        return self._client.publish(step["topic"], step["message"])
