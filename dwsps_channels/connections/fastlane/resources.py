"""The objects that all connections of one uvicorn server share."""

import asyncio
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.server import ServerState

from dwsps_channels.connections.fastlane.pinger import Pinger
from dwsps_channels.connections.fastlane.round_robin import RoundRobin
from dwsps_channels.connections.transports.batch_writer import BatchWriter


class ServerResources:
    """The batch writer, the round robin and the pinger of one server."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.batch_writer = BatchWriter(loop)
        self.round_robin = RoundRobin(loop)
        self.pinger = Pinger(loop, config.ws_ping_interval)
        timeout, interval = config.ws_ping_timeout, config.ws_ping_interval
        self.max_missed_pings = (
            max(1, round(timeout / interval)) if timeout and interval else float("inf")
        )
        """After so many pings without an answer a client is gone; with uvicorn's defaults it is one."""


_of_servers: WeakKeyDictionary[ServerState, ServerResources] = WeakKeyDictionary()


def resources_of(
    server: ServerState, config: Config, loop: asyncio.AbstractEventLoop
) -> ServerResources:
    """Return the resources of ``server``; make them for its first connection."""
    resources = _of_servers.get(server)
    if resources is None:
        resources = _of_servers[server] = ServerResources(config, loop)
    return resources
