"""The settings of the benchmarks, with tokens and a policy that asks the database."""

import os

from benchmarks.settings import *
from benchmarks.settings import DWSPS, MIDDLEWARE

ROOT_URLCONF = "benchmarks.rechecks.site"

# Its views are called by no page.
MIDDLEWARE.remove("django.middleware.csrf.CsrfViewMiddleware")

DWSPS |= {
    "AUTHENTICATOR": "dwsps_channels.tokens.SignedToken",
    "POLICY": f"benchmarks.rechecks.policies.{os.environ.get('BENCHMARK_POLICY', 'Plain')}",
}
