"""The demo project's settings for a site whose pages publish: see `tests/publishing/site.py`."""

from tests.server_settings import *

ROOT_URLCONF = "tests.publishing.site"
