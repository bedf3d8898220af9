"""The session's contracts, kept by objects that write down what they are told."""

import asyncio
import json
import re
from asyncio import Future
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from msgspec import Raw

from dwsps_channels.core.authenticator import Authenticator
from dwsps_channels.core.broker import BrokerStats, Receiver, Repeated
from dwsps_channels.core.futures import has_failed
from dwsps_channels.core.grants import CheckGrant, no_grants
from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.node import Node
from dwsps_channels.core.observer import Observer
from dwsps_channels.core.pacing import Pause
from dwsps_channels.core.peer_session import PeerSession
from dwsps_channels.core.policy import Policy
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.scheduler import NEVER, Scheduler
from dwsps_channels.core.services import Services
from dwsps_channels.core.session import Session
from dwsps_channels.core.sessions import Sessions
from dwsps_channels.core.worker_session import PublisherSession, ReaderSession, WorkerSession
from dwsps_channels.protocol.errors import WireError
from dwsps_channels.protocol.frames import Frame, Frames

Message = dict[str, Any]

STAMP = "2020-01-21T17:03:13.625Z"

SERVER_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@dataclass(eq=False)
class RecordingTransport:
    """Takes frames until it is closed, as the contract says."""

    broadcaster = None
    buffered_bytes: int = 0
    frames: list[Frame] = field(default_factory=list)
    code: int | None = None
    final_frame: Message = field(default_factory=dict)
    discarded: bool = False
    until_caught_up: "Future[None] | None" = None
    """The future that publishers wait for."""

    def send(self, frame: Frame) -> None:
        if self.code is None:
            self.frames.append(frame)

    def send_all(self, frames: Frames) -> None:
        for frame in frames:
            self.send(frame)

    def caught_up(self) -> "Future[None] | None":
        return self.until_caught_up

    def close(self, code: int, final_frame: Frame, *, discard: bool = False) -> None:
        if self.code is None:
            self.code = code
            self.final_frame = without_timestamp(json.loads(final_frame.data))
            self.discarded = discard

    def take(self) -> list[Message]:
        """Return the messages sent since the last call as ``take_whole`` does, but without offsets and cursors."""
        return [
            {name: value for name, value in one.items() if name not in ("offset", "cursor")}
            if one["type"] in ("publish", "ack")
            else one
            for one in self.take_whole()
        ]

    def take_whole(self) -> list[Message]:
        """Return the messages sent since the last call, acks and errors without their timestamp."""
        taken = [json.loads(frame.data) for frame in self.frames]
        self.frames.clear()
        return [
            one
            if one["type"] in ("publish", "entry") or "missed" in one
            else without_timestamp(one)
            for one in taken
        ]


class BufferingTransport(RecordingTransport):
    """Its client reads when the test takes frames out of ``frames``; until then they fill the buffer."""

    @property
    def buffered_bytes(self) -> int:
        return sum(len(frame.data) for frame in self.frames)

    @buffered_bytes.setter
    def buffered_bytes(self, _: int) -> None: ...

    def close(self, code: int, final_frame: Frame, *, discard: bool = False) -> None:
        super().close(code, final_frame, discard=discard)
        if discard:
            self.frames.clear()


class RecordingObserver(Observer):
    """``told`` has a tuple for each event: its name, the client, and what it is about."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def connected(self, identity: Identity) -> None:
        self.told.append(("connected", identity.client))

    def disconnected(self, identity: Identity) -> None:
        self.told.append(("disconnected", identity.client))

    def subscribed(self, identity: Identity, topic: str) -> None:
        self.told.append(("subscribed", identity.client, topic))

    def unsubscribed(self, identity: Identity, topic: str) -> None:
        self.told.append(("unsubscribed", identity.client, topic))

    def published(self, identity: Identity, topic: str, message: Raw) -> None:
        self.told.append(("published", identity.client, topic, bytes(message).decode()))


class RecordingPolicy:
    """Answers every question the same, by calling ``answer``; ``asked`` has the questions."""

    def __init__(self, answer: Callable[[], Any] = lambda: True) -> None:
        self._answer = answer
        self.asked: list[tuple[str, Identity, str]] = []

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        self.asked.append(("subscribe", identity, topic))
        return self._answer()

    def may_publish(self, identity: Identity, topic: str) -> Any:
        self.asked.append(("publish", identity, topic))
        return self._answer()


def peer(client: str, name: str = "north") -> Identity:
    """A client that may relay other servers' messages."""
    return Identity(client, role=Role.PEER, peer=name)


class Client:
    """One connection: what it sends goes straight to its session."""

    def __init__(self, session: Session, transport: RecordingTransport) -> None:
        self.session = session
        self.transport = transport

    def send(self, frame: str | bytes) -> list[Message]:
        """Send a frame that needs no waiting; returns all that came to this client."""
        assert self.session.receive(frame) is None
        return self.transport.take()

    def start(self, frame: str | bytes) -> Awaitable[None]:
        """Send a frame that must be waited for."""
        pending = self.session.receive(frame)
        assert pending is not None
        return pending


ORIGIN = "0123456789abcdef"


class RecordingBroker:
    """Gives everything back as the contract says: at once, or when the test says that it has it."""

    def __init__(self) -> None:
        self.taken: list[Publication] = []
        """The publications that were handed to it."""
        self.keys: list[str] = []
        """Their keys."""
        self.answer: Future[int | None] | None = None
        """The answer of ``publish``, its result the offset; ``None``: the offset, at once."""
        self.receiver: Receiver | None = None

    async def start(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def publish(self, publication: Publication, key: str = "") -> "int | Future[int | None]":
        assert self.receiver is not None
        self.taken.append(publication)
        self.keys.append(key)
        answer = self.answer
        if answer is None:
            self.receiver.receive(publication, len(self.taken))
            return len(self.taken)

        def come_back(_: object) -> None:
            assert self.receiver is not None
            if not has_failed(answer) and not isinstance(answer.result(), Repeated):
                self.receiver.receive(publication, answer.result())

        answer.add_done_callback(come_back)
        return answer

    async def stop(self) -> None:
        pass

    def stats(self) -> BrokerStats:
        return BrokerStats()


SESSIONS = {
    Role.CLIENT: Session,
    Role.PEER: PeerSession,
    Role.PUBLISHER: PublisherSession,
    Role.READER: ReaderSession,
    Role.WORKER: WorkerSession,
}


class World:
    """The server around the sessions: a node, a broker and an observer, all written down."""

    def __init__(self, origin: str = ORIGIN) -> None:
        self.broker = RecordingBroker()
        self.sessions = Sessions()
        self.node = Node(
            origin, self.broker, on_reset=lambda: self.sessions.reset(self.node.cursor)
        )
        self.broker.receiver = self.node
        self.observer = RecordingObserver()

    def receive(self, publication: Publication) -> None:
        """Let the broker bring what another process has published."""
        self.node.receive(publication, None)

    def connect(
        self,
        client: str = "one",
        *,
        identity: Identity | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = monotonic,
        transport: RecordingTransport | None = None,
        pause: Pause = asyncio.sleep,
        check_grant: CheckGrant = no_grants,
        scheduler: Scheduler = NEVER,
        authenticator: Authenticator | None = None,
    ) -> Client:
        transport = transport or RecordingTransport()
        identity = identity or Identity(client)
        session = SESSIONS[identity.role](
            Services(
                self.node,
                policy or RecordingPolicy(),
                (self.observer,),
                clock=clock,
                gather=asyncio.gather,
                pause=pause,
                check_grant=check_grant,
                scheduler=scheduler,
                on_identity=self.sessions.identified,
            ),
            transport,
            identity,
            limits or Limits(),
            authenticator,
        )
        self.sessions.add(session)
        session.open()
        return Client(session, transport)

    def is_empty(self) -> bool:
        """Tell whether the hub remembers nothing."""
        return not len(self.node.hub)


def future() -> "Future[Any]":
    """An awaitable that is done when the test says so. Needs a running loop."""
    return Future()


async def turn() -> None:
    """Let the callbacks of futures run that are done."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def without_timestamp(message: Message) -> Message:
    assert SERVER_TIMESTAMP.fullmatch(message["timestamp"])
    return {name: value for name, value in message.items() if name != "timestamp"}


def frame(type: str, topic: str, **fields: Any) -> str:
    return json.dumps({"type": type, "topic": topic, **fields})


def subscribe(topic: str, **fields: Any) -> str:
    return frame("subscribe", topic, **fields)


def unsubscribe(topic: str, **fields: Any) -> str:
    return frame("unsubscribe", topic, **fields)


def publish(topic: str, message: Any = "hello", **fields: Any) -> str:
    return frame("publish", topic, message=message, **fields)


def resume(topics: Any, **fields: Any) -> str:
    return json.dumps({"type": "resume", "topics": topics, **fields})


def ack(action: str, topic: str, **id: Any) -> Message:
    """Return an ack as ``take`` gives it."""
    return {"type": "ack", "action": action, "topic": topic, **id}


def delivery(topic: str, context: str, message: object = "hello") -> Message:
    """Return a delivery as ``take`` gives it, published with the timestamp ``STAMP``."""
    return {
        "type": "publish",
        "timestamp": STAMP,
        "topic": topic,
        "message": message,
        "context": context,
    }


ERRORS = WireError.__subclasses__()


def is_error(message: Message, code: str, **fields: Any) -> bool:
    """Return whether it is this error, with all of these fields and no others beside the reason."""
    expected = {
        "type": "error",
        "code": code,
        "retryable": any(kind.code == code and kind.retryable for kind in ERRORS),
        **fields,
    }
    reason = message.get("reason")
    return isinstance(reason, str) and bool(reason) and message == expected | {"reason": reason}
