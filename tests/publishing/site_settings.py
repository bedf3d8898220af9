"""The demo project's settings for a site whose pages publish: see `tests/publishing/site.py`."""

from project.settings import *

ROOT_URLCONF = "tests.publishing.site"
