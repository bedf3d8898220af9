"""A plain Channels consumer: a group for each topic, ``group_send`` to publish.

``REDIS_URL`` says which channel layer: Redis, or, unset, the one in memory.
"""

import os
from datetime import UTC, datetime
from typing import Any

import django
from django.conf import settings

redis_url = os.environ.get("REDIS_URL", "")

settings.configure(
    SECRET_KEY="of no use here",
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # By default there are 100 connections at most, and what needs one more fails.
            "CONFIG": {"hosts": [{"address": redis_url, "max_connections": 20_000}]},
        }
        if redis_url
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    },
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402

from benchmarks.rivals.topics import contexts  # noqa: E402


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Broadcast(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        self.topics: set[str] = set()
        await self.accept()

    async def disconnect(self, code: int) -> None:
        for topic in self.topics:
            await self.channel_layer.group_discard(topic, self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        topic = content["topic"]
        if content["type"] == "subscribe":
            self.topics.add(topic)
            await self.channel_layer.group_add(topic, self.channel_name)
            ack = {"type": "ack", "action": "subscribe", "timestamp": now(), "topic": topic}
            await self.send_json(ack)
            return
        for context in contexts(topic):
            delivery = {
                "type": "publish",
                "timestamp": now(),
                "topic": topic,
                "message": content["message"],
                "context": context,
            }
            await self.channel_layer.group_send(context, {"type": "deliver", "delivery": delivery})

    async def deliver(self, event: dict[str, Any]) -> None:
        await self.send_json(event["delivery"])


application = Broadcast.as_asgi()
