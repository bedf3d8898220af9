"""Sessions in a database that is far away."""

import time
from typing import Any

from django.contrib.sessions.backends.db import SessionStore as Store

SECONDS = 0.1


class SessionStore(Store):
    def load(self) -> dict[str, Any]:
        time.sleep(SECONDS)
        return super().load()
