"""uWebSockets by way of socketify: its own publish and subscribe, which does all but the JSON.

python -m benchmarks.rivals.uwebsockets_server PORT
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any

from socketify import App, AppListenOptions, CompressOptions, OpCode

from benchmarks.rivals.topics import contexts

# What waits for one client; beyond it uWebSockets drops messages, at 64 KiB unless told otherwise.
MAX_BACKPRESSURE = 1024 * 1024

app = App()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def on_message(ws: Any, text: str, opcode: OpCode) -> None:
    frame = json.loads(text)
    topic = frame["topic"]
    if frame["type"] == "subscribe":
        ws.subscribe(topic)
        ack = {"type": "ack", "action": "subscribe", "timestamp": now(), "topic": topic}
        ws.send(json.dumps(ack), OpCode.TEXT)
        return
    delivery = {
        "type": "publish",
        "timestamp": now(),
        "topic": topic,
        "message": frame["message"],
    }
    for context in contexts(topic):
        app.publish(context, json.dumps({**delivery, "context": context}), OpCode.TEXT)


app.ws(
    "/",
    {
        "compression": CompressOptions.DISABLED,
        "max_backpressure": MAX_BACKPRESSURE,
        "message": on_message,
    },
)
app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"))
app.run()
