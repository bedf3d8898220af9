"""Options that the ASGI server was started without, and that it needs among strangers: found in the running server.

``manage.py check`` cannot know them: they are on another command line.
"""

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings

from dwsps_channels.connections.servers.unwrap import unwrap
from dwsps_channels.core.limits import Limits

logger = logging.getLogger("dwsps_channels.server_options")

# How many clients may wait to be accepted: what uvicorn has and we advise, and below which we warn.
BACKLOG: Final = 2048
MIN_BACKLOG: Final = 512
# And for how many seconds each of them may wait: below which we warn, and what we advise.
MIN_HANDSHAKE_TIMEOUT: Final = 10
HANDSHAKE_TIMEOUT: Final = 20

# A project's other consumers may have larger messages than this app's. As much as Daphne takes by default.
MIN_MESSAGE_BYTES: Final = 1024 * 1024


def message_bytes(limits: Limits) -> int:
    """Return the advised limit of the server for a message: above that of every session, a worker's too."""
    return max(MIN_MESSAGE_BYTES, 2 * limits.message_bytes)


def warn_of_daphne(limits: Limits) -> None:
    """Warn of how Daphne listens, if it runs this event loop. Call it once, when the app starts."""
    if settings.DEBUG:
        return
    for problem in _problems_of_daphne(limits):
        logger.warning(
            'Daphne %s (docs/how-to/deployment.md, "Daphne, uvicorn, gunicorn")', problem
        )


def warn_of_uvicorn(send: Any, limits: Limits, *, holds_messages: bool) -> None:
    """Say what uvicorn takes from strangers. Once, for the ``send`` of its first websocket connection.

    ``holds_messages``: a message is held up to uvicorn's own limit before the app sees it.
    """
    if settings.DEBUG:
        return
    for item in unwrap(send):
        config = getattr(item, "config", None)
        if hasattr(config, "ws_max_size"):
            for problem in _problems_of_uvicorn(config, limits, holds_messages=holds_messages):
                logger.warning(
                    'uvicorn %s (docs/how-to/deployment.md, "Daphne, uvicorn, gunicorn")', problem
                )
            return


def warn_of_workers(send: Any, consequence: str) -> None:
    """Say that the server's broker is for one process, if uvicorn or gunicorn runs several, and what the ``consequence`` is.

    Once, for the ``send`` of the first websocket connection.
    """
    for item in unwrap(send):
        config = getattr(item, "config", None)
        if hasattr(config, "ws_max_size"):
            if (count := _workers_of(config)) > 1:
                logger.warning(
                    "this is one of %d processes, and they cannot reach each other: %s. Configure a channels_redis layer in "
                    'CHANNEL_LAYERS, or run one process (docs/how-to/deployment.md, "Several processes")',
                    count,
                    consequence,
                )
            return


def _workers_of(config: Any) -> int:
    # Under gunicorn, uvicorn's own number means nothing.
    gunicorn = getattr(getattr(config.callback_notify, "__self__", None), "cfg", config)
    return int(gunicorn.workers)


def _problems_of_daphne(limits: Limits) -> Iterator[str]:
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if getattr(reactor, "_asyncioEventloop", None) is not asyncio.get_running_loop():
        return
    for port in reactor.getReaders():
        server = getattr(getattr(port, "factory", None), "server", None)
        backlog = getattr(port, "backlog", None)
        if server is None or backlog is None:
            continue  # a connection, or what others listen to
        if backlog < MIN_BACKLOG:
            yield (
                f"listens with a backlog of {backlog}: if thousands of clients connect at once, many are rejected. "
                f"Start it with -e tcp:port=PORT:interface=HOST:backlog={BACKLOG} in place of -p and -b"
            )
        if server.websocket_connect_timeout < MIN_HANDSHAKE_TIMEOUT:
            yield (
                f"gives a client {server.websocket_connect_timeout} s for its handshake: if thousands connect at "
                f"once, many are rejected. Start it with --websocket_connect_timeout {HANDSHAKE_TIMEOUT}"
            )
        yield from _problems_of_limit(
            limits, server.websocket_max_message_size, "--websocket-max-message-size"
        )


def _problems_of_uvicorn(config: Any, limits: Limits, *, holds_messages: bool) -> Iterator[str]:
    if holds_messages:
        yield from _problems_of_limit(limits, config.ws_max_size, "--ws-max-size")
    if config.http_protocol_class.__name__ == "HttpToolsProtocol":
        yield (
            "accepts request heads of any size, and waits for their end without a time limit. "
            "Start it with --http dwsps_channels.fastlane:HttpProtocol"
        )


def _problems_of_limit(limits: Limits, size: int, option: str) -> Iterator[str]:
    # What waits for a client may cost as much anyway.
    allowed = max(limits.buffered_bytes, message_bytes(limits))
    if 0 < size < limits.message_bytes:
        yield (
            f"ends the connection of a client whose message is above {size} bytes, but DWSPS['MAX_MESSAGE_BYTES'] is "
            f"{limits.message_bytes}. Start it with {option} {message_bytes(limits)}"
        )
    elif not 0 < size <= allowed:
        yield (
            f"buffers messages of {f'up to {size} bytes' if size else 'any size'} from each client before the app "
            f"sees them. Start it with {option} {message_bytes(limits)}"
        )
