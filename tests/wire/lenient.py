"""The demo project on a server that waits half a minute where it would wait for seconds.

A test that is not about these times takes it: the test run may stand still for seconds.
"""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from dwsps_channels.connections.transports import closing
from dwsps_channels.server import runtime
from project.asgi import application

__all__ = ["application"]

closing.SLOW_CLOSE_TIMEOUT = runtime.WORKERS_GRACE = 30.0
