"""Websocket clients that cost little: thousands of them share a process with what measures delays."""

import asyncio
import json
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

from benchmarks import HOST
from benchmarks.processes import Failure

_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_REQUEST: Final = (
    "GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    "Authorization: Bearer {token}\r\n\r\n"
)

OnMessage = Callable[[bytes], None]


class Client(asyncio.Protocol):
    """A connection that gives each message that it receives, encoded, to ``on_message``."""

    def __init__(self, request: bytes, on_message: OnMessage) -> None:
        self._request = request
        self._on_message = on_message
        self._read = b""
        self._transport: Any = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, port: int, token: str, on_message: OnMessage) -> "Client":
        """Connect, and log in by the token.

        Raises:
            Failure: the server refuses.
        """
        request = _REQUEST.format(host=HOST, port=port, token=token).encode()
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: cls(request, on_message), HOST, port)
        await client.opened
        return client

    def send(self, **message: Any) -> None:
        """Send a message, the keys and values of a JSON object."""
        self._send(_TEXT, json.dumps(message).encode())

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = transport
        transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        if not self.opened.done():
            self.opened.set_exception(Failure("the server closed a connection"))

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        read = self._read + data
        if not self.opened.done():
            head, end, read = read.partition(b"\r\n\r\n")
            if not end:
                self._read = head
                return
            if b" 101 " not in head:
                self.opened.set_exception(Failure(f"the server refused a connection: {head!r}"))
                return
            self.opened.set_result(None)
        while len(read) >= 2:
            start, length = 2, read[1]
            if length == 126:
                start, length = 4, int.from_bytes(read[2:4], "big")
            if len(read) < start + length:
                break
            opcode, payload, read = (
                read[0] & 0xF,
                read[start : start + length],
                read[start + length :],
            )
            if opcode == _TEXT:
                self._on_message(payload)
            elif opcode == _PING:
                self._send(_PONG, payload)
            elif opcode == _CLOSE:
                self._transport.close()
        self._read = read

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        # The mask is 0: it changes nothing.
        self._transport.write(bytes([0x80 | opcode]) + length + bytes(4) + payload)


class Crowd:
    """Clients of one user, each with one subscription, and the number of messages of each type that they got."""

    def __init__(self) -> None:
        self._clients: list[Client] = []
        self.acks = self.deliveries = self.unsubscribed = self.errors = 0

    async def open(self, port: int, token: str, topic: str, count: int, at_once: int) -> None:
        """Connect ``count`` clients, ``at_once`` at a time, and have each subscribe to ``topic``."""
        left = iter(range(count))

        async def connect() -> None:
            for _ in left:
                client = await Client.open(port, token, self._received)
                client.send(type="subscribe", topic=topic)
                self._clients.append(client)

        await asyncio.gather(*(connect() for _ in range(at_once)))

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def has_had(self, deliveries: int, unsubscribed: int) -> bool:
        """Tell whether it has had just these since the last time."""
        if (self.deliveries, self.unsubscribed) != (deliveries, unsubscribed):
            return False
        self.deliveries = self.unsubscribed = 0
        return True

    def _received(self, message: bytes) -> None:
        if message.startswith(b'{"type":"publish"'):
            self.deliveries += 1
        elif message.startswith(b'{"type":"ack"'):
            self.acks += 1
        elif message.startswith(b'{"type":"unsubscribed"'):
            self.unsubscribed += 1
        elif message.startswith(b'{"type":"error"'):
            self.errors += 1


class Pair:
    """A publisher and a subscriber on a topic of their own, and the delays between them, in seconds."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self._clients: list[Client] = []
        self._ticking: asyncio.Task[None] | None = None

    async def open(self, port: int, token: str, interval: float) -> None:
        """Connect both, and publish in each interval from then on."""
        publisher = await Client.open(port, token, lambda message: None)
        subscriber = await Client.open(port, token, self._received)
        self._clients = [publisher, subscriber]
        subscriber.send(type="subscribe", topic="pair")
        self._ticking = asyncio.create_task(self._publish(publisher, interval))

    async def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        for client in self._clients:
            client.close()

    def has_delays(self) -> bool:
        """Tell whether there are enough for quantiles."""
        return len(self.delays) > 1

    def publish(self, topic: str) -> None:
        """Publish to another topic than that of the pair."""
        self._clients[0].send(type="publish", topic=topic, message="")

    async def _publish(self, publisher: Client, interval: float) -> None:
        while True:
            publisher.send(type="publish", topic="pair", message=perf_counter())
            await asyncio.sleep(interval)

    def _received(self, message: bytes) -> None:
        read = json.loads(message)
        if read["type"] == "publish":
            self.delays.append(perf_counter() - read["message"])
