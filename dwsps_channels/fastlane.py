"""The fast lane for uvicorn: ``--ws dwsps_channels.fastlane:Protocol --loop dwsps_channels.fastlane:new_loop``."""

from dwsps_channels.connections.fastlane.loop import new_loop
from dwsps_channels.connections.fastlane.opening import OpeningProtocol as HttpProtocol
from dwsps_channels.connections.fastlane.protocol import WebSocketProtocol as Protocol

__all__ = ["HttpProtocol", "Protocol", "new_loop"]
