"""The websocket routes of the app, and a router for them."""

from collections.abc import Sequence
from typing import Any

import channels.routing
from django.urls import path, re_path

from dwsps_channels.connections.handshakes import reject
from dwsps_channels.consumers import PubSubConsumer

# Typed loosely: Django's own type of a route knows views only.
_application: Any = PubSubConsumer.as_asgi()

websocket_urlpatterns = [path("ws/pubsub/", _application)]


class URLRouter(channels.routing.URLRouter):
    """Replacement for ``channels.routing.URLRouter`` that answers a path without a route with HTTP 404.

    Channels raises an exception instead, so each client with a wrong path leaves a traceback in the log.
    """

    def __init__(self, routes: Sequence[Any]) -> None:
        unknown: Any = _reject_unknown_path
        super().__init__([*routes, re_path("", unknown)])


async def _reject_unknown_path(scope: Any, receive: Any, send: Any) -> None:
    await receive()  # websocket.connect
    await reject(scope, send, 404)
