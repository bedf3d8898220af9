"""The demo project's settings with the broker of a contestant, whichever is the default."""

import os

from project.settings import *
from project.settings import CHANNEL_LAYERS, DWSPS

_backend = os.environ.get("BENCHMARK_BROKER") or (
    "RedisBackend" if os.environ.get("REDIS_URL") else "MemoryBackend"
)
DWSPS |= {"BROKER": {"BACKEND": f"dwsps_channels.broker.backends.{_backend}"}}

if layer := os.environ.get("BENCHMARK_LAYER"):
    CHANNEL_LAYERS["default"]["BACKEND"] = layer
    if "pubsub" in layer:
        del CHANNEL_LAYERS["default"]["CONFIG"]["capacity"]
