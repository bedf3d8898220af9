"""The event loop of the fast lane."""

import asyncio
from collections.abc import Callable
from typing import Any

import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dwsps_channels.connections.fastlane.opening import OpeningProtocol


def new_loop() -> asyncio.AbstractEventLoop:
    """Make a uvloop event loop, for uvicorn's ``--loop``."""
    return _Loop()


class _Loop(uvloop.Loop):
    """Replaces uvicorn's HTTP protocol by ours, which has bounds, unless ``--http`` names another one.

    uvicorn's ``--ws`` gives us a connection only after its HTTP protocol has read a request of any size. The loop sees
    the connection before.
    """

    async def create_server(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *args: Any, **kwargs: Any
    ) -> Any:
        def make() -> asyncio.BaseProtocol:
            protocol = protocol_factory()
            if type(protocol) is not HttpToolsProtocol:
                return protocol
            protocol.config.http_protocol_class = OpeningProtocol
            return protocol_factory()

        return await super().create_server(make, *args, **kwargs)
