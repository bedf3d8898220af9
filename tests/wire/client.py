"""A client of the wire protocol for tests: an independent websocket library, JSON in and out, and no more."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

# Of what is to come, on a machine that may stand still for a while.
RECEIVE_TIMEOUT = 30.0


class WireClient:
    """One connection. What it receives is given as parsed JSON, in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: object) -> None:
        await self.connection.send(json.dumps(message))

    async def receive(self, timeout: float = RECEIVE_TIMEOUT) -> Any:
        async with asyncio.timeout(timeout):
            return json.loads(await self.connection.recv())

    async def call(self, type: str, topic: object, **fields: object) -> Any:
        """Send a request and give the next frame, which is its ack where nothing is delivered before."""
        await self.send({"type": type, "topic": topic, **fields})
        return await self.receive()

    async def subscribe(self, topic: str) -> None:
        ack = await self.call("subscribe", topic)
        assert (ack["type"], ack["action"], ack["topic"]) == ("ack", "subscribe", topic), ack

    async def publish(self, topic: str, message: object) -> None:
        ack = await self.call("publish", topic, message=message)
        assert (ack["type"], ack["action"], ack["topic"]) == ("ack", "publish", topic), ack

    async def publish_and_receive(self, topic: str, message: object) -> None:
        """Publish to what this client is subscribed to, once, and receive delivery and ack."""
        delivery = await self.call("publish", topic, message=message)
        assert (delivery["type"], delivery["message"]) == ("publish", message), delivery
        ack = await self.receive()
        assert ack["type"] == "ack", ack

    async def nothing_more(self) -> None:
        """Assert that nothing has been sent that was not received: an answer to a request comes next."""
        probe = await self.call("unsubscribe", "nothing.more", id="nothing-more")
        assert probe.get("id") == "nothing-more", probe


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[WireClient]:
    """A connection to ``url``, closed at the end."""
    # Compression would only make the limits of what is under test less plain.
    options = {"open_timeout": RECEIVE_TIMEOUT} | options
    async with connect(url, compression=None, **options) as connection:
        yield WireClient(connection)
