"""Publishing from any Django code, in a process that serves or in any other."""

from dwsps_channels.publishing.api import apublish, publish
from dwsps_channels.publishing.publisher import PublishResult

__all__ = ["PublishResult", "apublish", "publish"]
