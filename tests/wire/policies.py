"""Policies for servers that tests start."""

import time
from typing import Any

from django.contrib.auth.models import User

from dwsps_channels.core.identity import Identity


class FailsClosed:
    """Asks the database, async and plain; whatever goes wrong, the answer is no."""

    async def may_subscribe(self, identity: Identity, topic: str) -> bool:
        try:
            return await User.objects.acount() >= 0
        except Exception:
            return False

    def may_publish(self, identity: Identity, topic: str) -> bool:
        try:
            return User.objects.count() >= 0
        except Exception:
            return False


class Slow:
    """Takes its time to say yes to subscribers of ``slow``."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        if topic.startswith("slow"):
            time.sleep(20)
        return True

    def may_publish(self, identity: Any, topic: str) -> bool:
        return User.objects.count() >= 0
