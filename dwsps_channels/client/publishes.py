"""Publishes across connections: those that wait for one, and those that a lost one left without an answer."""

import asyncio
import secrets
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import time
from typing import Any, Final

from dwsps_channels.client import messages
from dwsps_channels.client.calls import Call
from dwsps_channels.client.errors import ClientClosed, ConnectionLost, InvalidCall, QueueFull
from dwsps_channels.client.futures import fail
from dwsps_channels.client.messages import Ack, Incoming
from dwsps_channels.protocol.timestamps import now

# A server remembers the keys of publishes for five minutes; half a minute of it is left for the way.
KEY_LIFETIME: Final = 270.0


@dataclass(slots=True, eq=False)
class Publish:
    """One message on its way."""

    topic: str
    payload: bytes
    future: asyncio.Future[Ack]
    sent_at: float | None = None
    """When it was first sent, by the clock that goes on while the machine sleeps."""

    @property
    def may_be_sent(self) -> bool:
        """False if the server has perhaps had it and forgotten its key: it might be published twice."""
        return self.sent_at is None or 0 <= time() - self.sent_at < KEY_LIFETIME

    def lose(self, reason: str) -> None:
        """Fail it: nobody knows whether it arrived."""
        words = "the connection broke before the ack, the message may have arrived or not"
        words = f"{words}: {reason}" if reason else words
        fail(self.future, ConnectionLost("publish", self.topic, words))


class Publishes:
    """Keeps the order of publishes, whatever becomes of connections."""

    def __init__(self, queue_size: int) -> None:
        """Take the number of publishes that may wait."""
        self.server_has_log = False
        """The server's last answer says so: it knows a publish that is sent again by its key."""
        self._queue_size = queue_size
        self._waiting: deque[Publish] = deque()
        self._unanswered: list[Publish] = []  # of the connection that was lost, to be sent again
        self._keys = f"{secrets.token_urlsafe(12)}.%d"
        self._count = 0

    @property
    def are_waiting(self) -> bool:
        """Return whether another one has to wait behind these."""
        return bool(self._waiting)

    def make(self, topic: str, message: Any) -> Publish:
        """Encode a message, with the time of now and a key that no other has.

        Raises:
            InvalidCall: it is no JSON value.
        """
        self._count += 1
        key = self._keys % self._count
        try:
            payload = messages.publish_payload(messages.to_json(message), now(), key)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidCall("publish", topic, "invalid_message", str(error)) from error
        return Publish(topic, payload, asyncio.get_running_loop().create_future())

    def wait(self, publish: Publish) -> None:
        """Let it wait behind the others.

        Raises:
            QueueFull: too many wait already.
        """
        if len(self._waiting) >= self._queue_size:
            reason = f"{self._queue_size} publishes wait already"
            raise QueueFull("publish", publish.topic, reason)
        self._waiting.append(publish)

    def take_next(self) -> Publish | None:
        """Return the first that waits and can be sent, and fail those before it that are too old."""
        while self._waiting:
            publish = self._waiting.popleft()
            if publish.future.done():
                continue  # its caller has gone
            if publish.may_be_sent:
                return publish
            publish.lose("")
        return None

    def withdraw(self, publish: Publish) -> None:
        """Do not send it, if it waits still."""
        with suppress(ValueError):
            self._waiting.remove(publish)

    def call(self, publish: Publish) -> Call:
        """Return the request for a publish that is sent now."""
        if publish.sent_at is None:
            publish.sent_at = time()
        future = publish.future

        def done(ack: Incoming) -> None:
            if not future.done():
                future.set_result(ack.ack)

        def lost(reason: str) -> None:
            if self.server_has_log:
                self._unanswered.append(publish)
            else:
                publish.lose(reason)

        return Call("publish", publish.topic, done, partial(fail, future), lost)

    def disconnected(self) -> None:
        """Put those that were lost with the connection before all others: they are the oldest."""
        self._waiting.extendleft(reversed(self._unanswered))
        self._unanswered.clear()

    def close(self, why: str) -> None:
        """Fail all that wait: there will be no connection any more."""
        for publish in self._waiting:
            fail(publish.future, ClientClosed("publish", publish.topic, why))
        self._waiting.clear()
