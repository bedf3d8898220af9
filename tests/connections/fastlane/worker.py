"""The demo project for ``uvicorn --workers``: a client is told by which of them it is served.

A worker ends when its parent dies, as the parent does with the test run.
"""

import ctypes
import os
import signal
from typing import Any

from project.asgi import application as project

# Such a leash as ``tests.processes`` has the parent on is not handed down.
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def application(scope: Any, receive: Any, send: Any) -> None:
    async def send_named(event: Any) -> None:
        if event["type"] == "websocket.accept":
            name = b"x-worker", str(os.getpid()).encode()
            event = {**event, "headers": [*event.get("headers", ()), name]}
        await send(event)

    await project(scope, receive, send_named)
