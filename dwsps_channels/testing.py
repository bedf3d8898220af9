"""Helpers for the tests of a project: docs/how-to/testing.md shows how.

``outbox`` and ``capture_publishes`` test code that publishes, and code that reads history; ``PubSubCommunicator`` tests
policies, signals, middleware and recovery.
"""

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, Self

import channels.db
from channels.testing import WebsocketCommunicator

from dwsps_channels.capturing import Published, capture_publishes, outbox, real_publishes
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.threads import database

__all__ = [
    "Closed",
    "PubSubCommunicator",
    "Published",
    "Refused",
    "capture_publishes",
    "outbox",
    "real_publishes",
]

# What runs in a test by ``database_sync_to_async`` would close the test's connection, and end its transaction. Channels'
# communicators see to it only while they send and receive.
channels.db.close_old_connections = database.close_old_connections  # type: ignore[attr-defined]


class Refused(Exception):
    """The server answered a request with an error: ``code`` and ``reason`` (docs/reference/protocol.md, "Errors")."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Closed(Exception):
    """The server refused the connection, or closed it with ``code`` (docs/reference/protocol.md, "Closing")."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class PubSubCommunicator(WebsocketCommunicator):
    """A client in the test's own process, connected within ``async with``.

    By default it connects to the consumer alone, as ``user``. With ``application``, such as ``myproject.asgi.application``,
    it connects to that at ``path``, with ``headers`` such as a session cookie or an origin.

    The methods of ``WebsocketCommunicator`` work as well: they can send what a well-behaved client would not.
    """

    def __init__(
        self,
        application: Any = None,
        path: str = "/ws/pubsub/",
        *,
        user: Any = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        timeout: float = 5.0,
    ) -> None:
        super().__init__(application or PubSubConsumer.as_asgi(), path, list(headers))
        scope: Any = self.scope
        if user is not None:
            scope["user"] = user
        self.cursor = ""
        """The last that the server has sent: what comes up to it was received. Empty: the server keeps no log."""
        self.ended: dict[str, Refused] = {}
        """By topic why the server has ended the subscription."""
        self.expires_in: int | None = None
        """The seconds that the token had left when the server warned of its end; ``None``: it has not."""
        self.resets = 0
        """How often the server has told that messages may be missing."""
        self._timeout = timeout
        self._ids = count(1)
        # Came while the answer to a request was awaited.
        self._deliveries: deque[dict[str, Any]] = deque()

    async def __aenter__(self) -> Self:
        accepted, code = await self.connect(self._timeout)
        if not accepted:
            await self.wait(self._timeout)
            raise Closed(int(code or 1000))
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self.future.done():
            await self.wait(self._timeout)  # raises what the application raised
        else:
            await self.disconnect(timeout=self._timeout)

    async def connect(self, timeout: float | None = None) -> tuple[bool, Any]:
        """Connect, and return whether that was accepted, and the subprotocol or the close code. ``async with`` does it as well."""
        accepted, detail = await super().connect(self._or_default(timeout))
        return accepted, detail

    async def disconnect(self, code: int = 1000, timeout: float | None = None) -> None:
        """Close the connection with ``code``, as the client."""
        await super().disconnect(code, self._or_default(timeout))

    async def receive_from(self, timeout: float | None = None) -> str | bytes:
        """Return the next frame of the server."""
        frame: str | bytes = await super().receive_from(self._or_default(timeout))
        return frame

    async def receive_json_from(self, timeout: float | None = None) -> Any:
        """Return the next frame of the server, decoded."""
        return await super().receive_json_from(self._or_default(timeout))

    def _or_default(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    async def subscribe(
        self,
        topic: str,
        *,
        since: str | None = None,
        last: int | None = None,
        grant: str | None = None,
    ) -> bool:
        """Subscribe, and wait for the ack. What is replayed comes first: ``receive`` returns it.

        Args:
            topic: levels joined by dots.
            since: a cursor; replays what was published after it.
            last: replays so many messages, the newest that are kept.
            grant: of ``make_grant`` or ``{% dwsps_grant %}``.

        Returns:
            Whether nothing is missing since ``since``; True without ``since``.

        Raises:
            Refused: the server answered with an error.
            Closed: the server closed the connection instead.
        """
        ack = await self._call(type="subscribe", topic=topic, since=since, last=last, grant=grant)
        return ack.get("recovered", True) is True

    async def resume(
        self, topics: Iterable[str], since: str, *, grants: Mapping[str, str] | None = None
    ) -> dict[str, bool | Refused]:
        """Subscribe to several topics since the cursor ``since``, as clients do when they reconnect; wait for the ack.

        Args:
            topics: each of levels joined by dots.
            since: a cursor.
            grants: by topic.

        Returns:
            For each topic whether nothing is missing, or why it was refused.

        Raises:
            Refused, Closed: as ``subscribe`` does, if the request itself is refused.
        """
        ack = await self._call(type="resume", topics=list(topics), since=since, grants=grants)
        return {
            topic: Refused(outcome["error"]["code"], outcome["error"]["reason"])
            if "error" in outcome
            else outcome["recovered"]
            for topic, outcome in ack["topics"].items()
        }

    async def authenticate(self, token: str) -> int | None:
        """Send a token, and wait for the ack; return the seconds until it expires, if it does. Raises as ``subscribe`` does."""
        ack = await self._call(type="authenticate", token=token)
        expires_in: int | None = ack.get("expiresIn")
        return expires_in

    async def unsubscribe(self, topic: str) -> None:
        """Unsubscribe, and wait for the ack. Raises as ``subscribe`` does."""
        await self._call(type="unsubscribe", topic=topic)

    async def publish(self, topic: str, message: Any, *, key: str | None = None) -> int | None:
        """Publish, and wait for the ack; return the message's offset, if there is a log. Raises as ``subscribe`` does."""
        ack = await self._call(type="publish", topic=topic, message=message, key=key)
        offset: int | None = ack.get("offset")
        return offset

    async def receive(self) -> dict[str, Any]:
        """Return the next delivery, a dict with ``topic``, ``message``, ``context``, ``timestamp`` and ``offset``.

        Raises:
            TimeoutError: none came in time.
            Closed: the server closed the connection.
        """
        return self._deliveries.popleft() if self._deliveries else await self._next()

    async def received_nothing(self) -> bool:
        """Return whether all deliveries were received. It need not wait for late ones: the server answers in order."""
        await self.unsubscribe("dwsps.testing.nothing")
        return not self._deliveries

    async def receive_output(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next event. Unlike asgiref's, keep the connection after a timeout, and raise at once if it has ended."""
        event: asyncio.Task[dict[str, Any]] = asyncio.create_task(self.output_queue.get())
        await asyncio.wait(
            {event, self.future},
            timeout=self._or_default(timeout),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if event.done():
            return event.result()
        event.cancel()
        if not self.future.done():
            raise TimeoutError
        await self.wait()  # raises what the application raised
        raise Closed(1006)

    async def _call(self, **fields: Any) -> dict[str, Any]:
        # A message may be None, which is null.
        request = {
            name: value for name, value in fields.items() if value is not None or name == "message"
        }
        request["id"] = next(self._ids)
        await self.send_json_to(request)
        while (answer := await self._next()).get("id") != request["id"]:
            self._deliveries.append(answer)
        if answer["type"] == "error":
            raise Refused(answer["code"], answer["reason"])
        return answer

    async def _next(self) -> dict[str, Any]:
        while True:
            event = await self.receive_output(self._timeout)
            if event["type"] == "websocket.close":
                raise Closed(event["code"])
            message: dict[str, Any] = json.loads(event["text"])
            self.cursor = message.get("cursor", self.cursor)
            if message["type"] == "reset":
                self.resets += 1
            elif message["type"] == "expiring":
                self.expires_in = message["expiresIn"]
            elif message["type"] == "unsubscribed":
                self.ended[message["topic"]] = Refused(message["code"], message["reason"])
            elif message["type"] != "error" or "id" in message:
                return message
            # Else it tells why the connection is being closed, which comes next.
