"""The demo project, for a server that waits half a second where it would wait ten."""

from dwsps_channels.connections.fastlane import http
from project.asgi import application

http.HEAD_TIMEOUT = 0.5

__all__ = ["application"]
