"""The demo project's settings for a site whose pages publish: see `tests/remote/site.py`."""

from project.settings import *

ROOT_URLCONF = "tests.remote.site"
