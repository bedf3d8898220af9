"""The ASGI scope of a websocket connection."""

import asyncio
from typing import Any
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from dwsps_channels.connections.websocket.handshake import HandshakeRequest


def websocket_scope(
    request: HandshakeRequest,
    transport: asyncio.Transport,
    config: Config,
    state: dict[str, Any],
    extensions: dict[str, Any],
) -> dict[str, Any]:
    """Make the scope of ``request``, as uvicorn's own protocols do; ``state`` is that of the lifespan."""
    root_path = config.root_path
    return {
        "type": "websocket",
        "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss" if is_ssl(transport) else "ws",
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
        "root_path": root_path,
        "path": root_path + unquote(request.raw_path.decode("latin-1")),
        "raw_path": root_path.encode("ascii") + request.raw_path,
        "query_string": request.query,
        "headers": request.headers,
        "subprotocols": request.subprotocols,
        "state": state.copy(),
        "extensions": {"websocket.http.response": {}, **extensions},
    }
