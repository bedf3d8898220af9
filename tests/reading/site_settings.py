"""The demo project's settings for a site with `CursorMiddleware`: see `tests/reading/site.py`."""

from tests.server_settings import *
from tests.server_settings import DWSPS, MIDDLEWARE

# Whatever a busy machine takes, in seconds.
DWSPS |= {"PUBLISH_TIMEOUT": 60}

ROOT_URLCONF = "tests.reading.site"
MIDDLEWARE = ["dwsps_channels.middleware.CursorMiddleware", *MIDDLEWARE]
