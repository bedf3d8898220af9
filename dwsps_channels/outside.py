"""Publishing from a process that serves nothing: a task queue's worker, a shell, cron.

Through the channel layer, where it is one that processes share; else through the server's websocket, with a
credential signed with ``SECRET_KEY``. Either connection is kept, by a thread with an event loop of its own.
"""

import asyncio
import json
import os
import threading
from concurrent.futures import Future
from typing import Protocol
from uuid import uuid4

from msgspec import Raw

from dwsps_channels.client import Client, ClientError, ServerError
from dwsps_channels.conf import conf
from dwsps_channels.core.errors import Unavailable
from dwsps_channels.core.publication import Publication

# How long a message may take to the server, the connection included.
PUBLISH_SECONDS = 10.0


class NotServing(RuntimeError):
    """This process serves no websockets, and found nobody who does. ``problem`` is what it found."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(
            "this process serves no websockets, and cannot reach one that does: CHANNEL_LAYERS has no layer that "
            f"processes share, such as channels_redis, and DWSPS['SERVER_URL'], {url}, cannot be used: {problem}. "
            "Set up either, or start the server"
        )
        self.url = url
        self.problem = problem


class Way(Protocol):
    """A way to the server."""

    async def connect(self) -> None:
        """Be ready to publish; raises ``NotServing``. Call it again before each publish."""

    async def publish(self, topic: str, message: Raw, timestamp: str) -> None:
        """Have the server publish, after all that was published before; raises ``Unavailable``."""

    async def close(self) -> None:
        """End the connection."""


class LayerWay:
    """Over the channel layer of this alias."""

    def __init__(self, alias: str) -> None:
        # Not at the top: channels-redis is needed only here.
        from dwsps_channels.bus.layers import layer_factory
        from dwsps_channels.bus.sender import ChannelLayerSender

        self._sender = ChannelLayerSender(layer_factory(alias), group=conf.group)
        self._origin = uuid4().hex
        self._published = 0

    async def connect(self) -> None:
        """The layer does that itself."""

    async def publish(self, topic: str, message: Raw, timestamp: str) -> None:
        self._published += 1
        await self._sender.publish(
            Publication(topic, message, timestamp, self._origin, self._published)
        )

    async def close(self) -> None:
        await self._sender.close()


class WebsocketWay:
    """Over the server's websocket."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None

    async def publish(self, topic: str, message: Raw, timestamp: str) -> None:
        client = self._client
        assert client is not None  # whoever publishes has connected
        try:
            # A connection that was lost is made again meanwhile.
            async with asyncio.timeout(PUBLISH_SECONDS):
                await client.publish(topic, json.loads(bytes(message)))
        except ServerError as error:
            raise Unavailable(f"the server refused: {error.reason}") from error
        except (ClientError, TimeoutError) as error:
            raise Unavailable(str(client.last_error or error)) from error

    async def connect(self) -> None:
        if self._client is not None and self._client.state != "closed":
            return  # it connects again by itself
        # Not at the top: models are needed only here.
        from dwsps_channels.peers.credentials import sign_worker

        settled = asyncio.Event()
        client = Client(
            self._url, token=sign_worker, max_delay=2.0, on_state=lambda state: settled.set()
        )
        client.connect()
        try:
            await settled.wait()
            # Who is not there at all is not waited for.
            if client.state != "open":
                raise NotServing(client.url, str(client.last_error))
        except BaseException:
            await client.close()
            raise
        self._client = client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class Outside:
    """Publishes by one way, from any thread. Made anew in a forked process: threads do not survive a fork."""

    def __init__(self, alias: str | None, url: str) -> None:
        self.made_for = (alias, url)
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._way: Way | None = None
        self._lock = asyncio.Lock()
        # A daemon: the process may end whenever it likes, all that was published has been taken by then.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="dwsps publishing", daemon=True
        )
        self._thread.start()

    def publish(self, topic: str, message: Raw, timestamp: str) -> "Future[int]":
        """Publish; the number of this process's sessions that it reaches, which is none.

        The future raises ``NotServing`` where there is no server, ``Unavailable`` where it did not take the message.
        """
        return asyncio.run_coroutine_threadsafe(
            self._publish(topic, message, timestamp), self._loop
        )

    async def _publish(self, topic: str, message: Raw, timestamp: str) -> int:
        # The lock is fair, and nothing is waited for between it and the sending: the order is the callers'. But who
        # waits for an answer holds up nobody.
        async with self._lock:
            if self._way is None:
                alias, url = self.made_for
                self._way = WebsocketWay(url) if alias is None else LayerWay(alias)
            await self._way.connect()
        await self._way.publish(topic, message, timestamp)
        return 0

    def close(self) -> None:
        """End the connection and the thread."""
        if self._way is not None:
            asyncio.run_coroutine_threadsafe(self._way.close(), self._loop).result(PUBLISH_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PUBLISH_SECONDS)
        self._loop.close()


_outside: Outside | None = None
_left_behind: list[Outside] = []
_lock = threading.Lock()


def outside(alias: str | None, url: str) -> Outside:
    """This process's way to the server; a new one where the settings have changed, or the process was forked."""
    global _outside
    with _lock:
        if _outside is not None and _outside.pid != os.getpid():
            # Its thread has stayed behind. It is kept: to tidy it up would be to close what the parent goes on using.
            _left_behind.append(_outside)
            _outside = None
        elif _outside is not None and _outside.made_for != (alias, url):
            _outside.close()
            _outside = None
        if _outside is None:
            _outside = Outside(alias, url)
        return _outside


os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))
