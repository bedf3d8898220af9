"""Publishing from any Django code, in a process that serves or in any other."""

from dwsps_channels.publishing.api import InvalidPayload, apublish, publish
from dwsps_channels.publishing.remote import NotServing

__all__ = ["InvalidPayload", "NotServing", "apublish", "publish"]
