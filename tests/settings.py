"""
The demo project's settings as the tests have them. What the developer has in the environment for `make run` must
not change what the tests see, so this clears it first.
"""

import os

for _name in (
    "ALLOWED_HOSTS",
    "DATABASE_URL",
    "DEBUG",
    "DWSPS_ALLOWED_ORIGINS",
    "DWSPS_POLICY",
    "DWSPS_SERVER_NAME",
    "DWSPS_SERVER_URL",
    "HSTS_INCLUDE_SUBDOMAINS",
    "HSTS_PRELOAD",
    "HSTS_SECONDS",
    "HTTPS_ONLY",
    "REDIS_URL",
    "TRUST_FORWARDED_PROTO",
):
    os.environ.pop(_name, None)
os.environ["SECRET_KEY"] = "only-for-tests-" + "x" * 50
os.environ["DATABASE_URL"] = "sqlite://:memory:"

from project.settings import *
from project.settings import DWSPS

# As without the key. A database in memory has no room for the log.
del DWSPS["BROKER"]

# As slow as they should be elsewhere, these would be most of the time of tests that log in.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
