"""The least that an ASGI application can do for a broadcast: what the server itself, Daphne, lets one have."""

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from benchmarks.rivals.topics import contexts

# topic -> the `send` of each of its subscribers
subscribers: dict[str, dict[Any, None]] = defaultdict(dict)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    subscribed = []
    try:
        while (event := await receive())["type"] == "websocket.receive":
            frame = json.loads(event["text"])
            topic = frame["topic"]
            if frame["type"] == "subscribe":
                subscribers[topic][send] = None
                subscribed.append(topic)
                ack = {"type": "ack", "action": "subscribe", "timestamp": now(), "topic": topic}
                await send({"type": "websocket.send", "text": json.dumps(ack)})
            else:
                await deliver(topic, frame["message"])
    finally:
        for topic in subscribed:
            subscribers[topic].pop(send, None)
            if not subscribers[topic]:
                del subscribers[topic]


async def deliver(topic: str, message: Any) -> None:
    delivery = {"type": "publish", "timestamp": now(), "topic": topic, "message": message}
    for context in contexts(topic):
        if context in subscribers:
            event = {"type": "websocket.send", "text": json.dumps({**delivery, "context": context})}
            for send in list(subscribers[context]):
                await send(event)
