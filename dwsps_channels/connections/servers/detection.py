"""The server that an ASGI ``send`` belongs to: its connection, and the best transport on it."""

import logging
from collections.abc import Callable
from typing import Any

from dwsps_channels.connections.servers.daphne import DaphneConnection, DaphneTransport, is_bare
from dwsps_channels.connections.servers.unwrap import unwrap
from dwsps_channels.connections.servers.uvicorn import UvicornConnection
from dwsps_channels.connections.transports.asgi import AsgiTransport, Send
from dwsps_channels.connections.transports.send_buffer import TurnWriter
from dwsps_channels.connections.transports.server_connection import ServerConnection

logger = logging.getLogger("dwsps_channels.servers")


def connection_of(send: Callable[..., Any]) -> ServerConnection:
    """Find the connection that ``send`` writes to, beneath whatever middleware wraps it."""
    for item in unwrap(send):
        transport = getattr(item, "transport", None)
        if hasattr(transport, "abortConnection"):
            return DaphneConnection(item)
        if hasattr(transport, "abort") and hasattr(transport, "pause_reading"):
            return UvicornConnection(transport)  # type: ignore[arg-type]
    _warn_once()
    return ServerConnection()


def transport_on(
    connection: ServerConnection,
    send: Send,
    batch_writer: TurnWriter,
    limit: int,
    on_slow_consumer: Callable[[], None],
    on_backpressure: Callable[[bool], None],
) -> AsgiTransport | DaphneTransport:
    """Make the transport on ``connection``, which is that of ``send``; see ``SendBuffer.set_limit`` for the rest."""
    if isinstance(connection, DaphneConnection) and is_bare(send):
        return DaphneTransport(
            send, connection, batch_writer, limit, on_slow_consumer, on_backpressure
        )
    return AsgiTransport(send, connection, limit, on_slow_consumer, on_backpressure)


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        logger.warning(
            "the ASGI server is neither Daphne nor uvicorn, or a middleware hides it: a client that does not read "
            "can be closed, but not cut off"
        )
