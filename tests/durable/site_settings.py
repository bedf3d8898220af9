"""The demo project's settings for the site of `tests/durable/site.py`, with further databases if the environment names their files."""

import os

from tests.server_settings import *
from tests.server_settings import DATABASES

ROOT_URLCONF = "tests.durable.site"

if other := os.environ.get("TEST_OTHER_DATABASE"):
    DATABASES["other"] = DATABASES["default"] | {"NAME": other}
if by_hand := os.environ.get("TEST_BY_HAND_DATABASE"):
    DATABASES["by_hand"] = DATABASES["default"] | {"NAME": by_hand, "AUTOCOMMIT": False}
