"""The demo project's settings for a site whose pages sign grants: see `tests/grants/site.py`."""

from tests.server_settings import *

ROOT_URLCONF = "tests.grants.site"
# Else each login would take a fifth of a second.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
