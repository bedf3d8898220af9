"""The demo project's settings, with its processes joined by a channel layer, whichever broker is the default."""

import os

from project.settings import *
from project.settings import CHANNEL_LAYERS

CHANNEL_LAYERS["default"]["BACKEND"] = os.environ["BENCHMARK_LAYER"]
if "pubsub" in CHANNEL_LAYERS["default"]["BACKEND"]:
    del CHANNEL_LAYERS["default"]["CONFIG"]["capacity"]

DWSPS = {"BROKER": {"BACKEND": "dwsps_channels.broker.backends.ChannelLayerBackend"}}
