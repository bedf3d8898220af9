"""The demo project's settings for a server that a test starts with a `DWSPS` of its own."""

import json
import os

from project.settings import *
from project.settings import DWSPS

DWSPS |= json.loads(os.environ["TEST_DWSPS"])

if engine := os.environ.get("TEST_SESSION_ENGINE"):
    SESSION_ENGINE = engine
