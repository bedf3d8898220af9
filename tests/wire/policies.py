"""Policies for servers that tests start."""

import time

from django.contrib.auth.models import User

from dwsps_channels.policies import Identity, nonblocking


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
    """Takes longer than any test waits to say who may subscribe below ``slow``; may ask the database before."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        if topic == "slow.database":
            User.objects.exists()
        if topic.startswith("slow"):
            time.sleep(60)
        return True

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


class OwnTopics:
    """Users may use the topic of their name."""

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated and identity.user.username == topic

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return self.may_subscribe(identity, topic)
