"""A connection of uvicorn."""

import asyncio

from dwsps_channels.connections.transports.in_flight import bytes_in_flight
from dwsps_channels.connections.transports.server_connection import ServerConnection


class UvicornConnection(ServerConnection):
    """Uvicorn itself waits in ``send`` for a slow reader, and reads only as fast as the application does."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def abort(self) -> None:
        self._transport.abort()

    def bytes_in_flight(self) -> int:
        return bytes_in_flight(self._transport)
