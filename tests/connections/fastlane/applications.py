"""A project's other consumers, to be served by the fast lane: ``tests.connections.fastlane.applications:application``."""

import asyncio
import json
import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from channels.auth import AuthMiddlewareStack
from channels.exceptions import AcceptConnection, DenyConnection
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

from dwsps_channels.consumers import PubSubConsumer


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


class BlockingEcho(WebsocketConsumer):
    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data=text_data, bytes_data=bytes_data)


class Subprotocol(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        chosen: Any = {
            "subprotocol": [*self.scope["subprotocols"]][-1],
            "headers": [(b"x-a", b"1")],
        }
        await self.accept(**chosen)


class Refusing(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise DenyConnection


class Accepting(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise AcceptConnection


class RaisingBefore(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise RuntimeError("before the accept")


class RaisingAfter(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        raise RuntimeError("after the accept")


class Closing(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.close(code=4321, reason="as you said")


class Group(AsyncWebsocketConsumer):
    """Tells all of its connections what one of them says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.groups = ["everybody"]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("everybody", {"type": "told", "text": text_data})

    async def told(self, event: Any) -> None:
        await self.send(text_data=event["text"])


async def scope(scope: Any, receive: Any, send: Any) -> None:
    """Tells the client what its scope is."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(scope, default=_plain)})
    await send({"type": "websocket.close"})


def _plain(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else type(value).__name__


async def denying(scope: Any, receive: Any, send: Any) -> None:
    """A response of its own, in two parts."""
    await receive()
    headers = [(b"x-why", b"because"), (b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": 429, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b'{"later":', "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"true}"})


async def returning(scope: Any, receive: Any, send: Any) -> None:
    """Decides nothing."""


async def returning_after(scope: Any, receive: Any, send: Any) -> None:
    """Ends without a close."""
    await receive()
    await send({"type": "websocket.accept"})


async def sleeping(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, and fetches nothing for a while; says how much came, and how it ended, in the log."""
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(0.5)
    count = 0
    while (event := await receive())["type"] == "websocket.receive":
        count += 1
    print("disconnected", count, event["code"], flush=True)


async def late(scope: Any, receive: Any, send: Any) -> None:
    """Takes its time with the accept, and echoes then."""
    await receive()
    await asyncio.sleep(0.3)
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def flooding(scope: Any, receive: Any, send: Any) -> None:
    """Sends 64 MiB without looking, and says how far it got, in the log."""
    await receive()
    await send({"type": "websocket.accept"})
    for number in range(1024):
        await send({"type": "websocket.send", "bytes": bytes(64 * 1024)})
        print("sent", number, flush=True)


async def injecting(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-a", b"1\r\nx-b: 2")]})


async def misusing(scope: Any, receive: Any, send: Any) -> None:
    """Sends before it accepts."""
    await receive()
    await send({"type": "websocket.send", "text": "hello"})


async def tired(scope: Any, receive: Any, send: Any) -> None:
    """A middleware that waits between the accept and our consumer's return, around ``PubSubConsumer``."""

    async def send_slowly(event: Any) -> None:
        await send(event)
        await asyncio.sleep(0.3)

    await PubSubConsumer.as_asgi()(scope, receive, send_slowly)


async def declining(scope: Any, receive: Any, send: Any) -> None:
    """A middleware that wants to see every message, around ``PubSubConsumer``."""
    scope["extensions"].pop("dwsps.fastlane")

    async def receive_seen() -> Any:
        event = await receive()
        print("seen", event["type"], flush=True)
        return event

    await PubSubConsumer.as_asgi()(scope, receive_seen, send)


ROUTES: dict[str, Any] = {
    "echo/": Echo.as_asgi(),
    "blocking/": BlockingEcho.as_asgi(),
    "subprotocol/": Subprotocol.as_asgi(),
    "refusing/": Refusing.as_asgi(),
    "accepting/": Accepting.as_asgi(),
    "raising-before/": RaisingBefore.as_asgi(),
    "raising-after/": RaisingAfter.as_asgi(),
    "closing/": Closing.as_asgi(),
    "group/": Group.as_asgi(),
    "scope/<str:word>/": scope,
    "denying/": denying,
    "returning/": returning,
    "returning-after/": returning_after,
    "sleeping/": sleeping,
    "late/": late,
    "flooding/": flooding,
    "injecting/": injecting,
    "misusing/": misusing,
    "tired/": tired,
    "declining/": declining,
    "pubsub/": PubSubConsumer.as_asgi(),
}

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(
            URLRouter([path(route, served) for route, served in ROUTES.items()])
        ),
    }
)
