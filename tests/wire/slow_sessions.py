"""Sessions in a database that is far away."""

import time
from typing import Any

from django.contrib.sessions.backends.db import SessionStore as Store

DELAY = 0.1


class SessionStore(Store):
    def load(self) -> dict[str, Any]:
        time.sleep(DELAY)
        return super().load()
