"""The demo project's settings for a site with `CursorMiddleware`: see `tests/reading/site.py`."""

from tests.server_settings import *
from tests.server_settings import MIDDLEWARE

ROOT_URLCONF = "tests.reading.site"
MIDDLEWARE = ["dwsps_channels.middleware.CursorMiddleware", *MIDDLEWARE]
