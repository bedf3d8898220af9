"""The fast door: ``uvicorn --ws dwsps_channels.fastlane:Protocol --loop dwsps_channels.fastlane:new_loop``."""

from dwsps_channels.fastlane.http import HttpProtocol
from dwsps_channels.fastlane.loop import new_loop
from dwsps_channels.fastlane.protocol import Protocol

__all__ = ["HttpProtocol", "Protocol", "new_loop"]
