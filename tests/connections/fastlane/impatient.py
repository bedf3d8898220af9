"""The demo project, for a server that waits two seconds where it would wait ten."""

from dwsps_channels.connections.fastlane import http
from project.asgi import application

http.HEAD_TIMEOUT = 2.0

__all__ = ["application"]
