"""The demo project's settings for the site of `tests/durable/site.py`, with a second database if the environment names its file."""

import os

from tests.server_settings import *
from tests.server_settings import DATABASES

ROOT_URLCONF = "tests.durable.site"

if other := os.environ.get("TEST_OTHER_DATABASE"):
    DATABASES["other"] = DATABASES["default"] | {
        "NAME": other,
        "AUTOCOMMIT": "TEST_OTHER_BY_HAND" not in os.environ,
    }
