"""Sending to a group of a channel layer from code that has no event loop, and may not have one."""

import asyncio
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from dwsps_channels.broker.channel_layer.layers import close_layer

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

Message = dict[str, Any]


def group_send(
    make_layer: "Callable[[], BaseChannelLayer]", group: str, message: Message, deadline: float
) -> None:
    """Send to a group of the layer that ``make_layer`` makes, and block until the layer has the message.

    Each message has a thread with an event loop, which leaves nothing behind in the caller's. What goes wrong after the
    deadline is not heard of.

    Raises:
        TimeoutError: not before the deadline, a time of ``time.monotonic``.
        Exception: whatever the layer raises.
    """
    if patched := patched_threads():
        raise RuntimeError(
            f"a channel layer needs a thread with an event loop, and {patched} has replaced threads: use RedisBackend"
        )
    outcome: list[Exception | None] = []
    thread = threading.Thread(
        target=_send, args=(make_layer, group, message, deadline, outcome), daemon=True
    )
    thread.start()
    thread.join(max(0.0, deadline - monotonic()))
    if not outcome:
        raise TimeoutError
    if outcome[0] is not None:
        raise outcome[0]


def _send(
    make_layer: "Callable[[], BaseChannelLayer]",
    group: str,
    message: Message,
    deadline: float,
    outcome: list[Exception | None],
) -> None:
    async def send() -> None:
        layer = make_layer()
        try:
            async with asyncio.timeout(deadline - monotonic()):
                await layer.group_send(group, message)
        finally:
            await close_layer(layer, None)

    try:
        asyncio.run(send())
    except Exception as error:
        outcome.append(error)
    else:
        outcome.append(None)


def patched_threads() -> str:
    """Name what has made greenlets of this process's threads: ``gevent``, ``eventlet``; empty: nothing has."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return ""
