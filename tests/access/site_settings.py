"""The demo project's settings for a site whose views change who may do what: see ``tests/access/site.py``."""

from tests.server_settings import *
from tests.server_settings import MIDDLEWARE

ROOT_URLCONF = "tests.access.site"

# Its views are called by no page.
MIDDLEWARE.remove("django.middleware.csrf.CsrfViewMiddleware")

# As slow as they should be elsewhere, these would be most of the time of a test.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
