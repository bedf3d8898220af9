"""The demo project's settings for the processes that tests start, with a `DWSPS` of the test's own if it asks for one."""

import json
import os

from project.settings import *
from project.settings import CHANNEL_LAYERS, DWSPS, INSTALLED_APPS

# It is there for `runserver` alone, and with Twisted a third of what it takes to start any process.
INSTALLED_APPS.remove("daphne")

# As without the key: most tests are not about the log, and several servers of one test share a database.
DWSPS.pop("BROKER", None)

DWSPS |= json.loads(os.environ.get("TEST_DWSPS", "{}"))

if layer := os.environ.get("TEST_CHANNEL_LAYER"):
    CHANNEL_LAYERS["default"] = json.loads(layer)

if engine := os.environ.get("TEST_SESSION_ENGINE"):
    SESSION_ENGINE = engine
