"""Policies for servers that tests start."""

import asyncio
import time
from collections import Counter

from django.contrib.auth.models import User

from dwsps_channels.policies import Decision, Identity, nonblocking


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


class Members:
    """Lets who has logged in follow ``members``, and everybody ``brief`` once, for a moment. The rest needs a grant."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> bool | Decision:
        if topic != "brief":
            return topic.partition(".")[0] == "members" and identity.is_authenticated
        if (identity.client, topic) in self._seen:
            return Decision(False, "the time is up")
        self._seen.add((identity.client, topic))
        return Decision(True, recheck_after=0.2)

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


class StaffNews:
    """Everybody may follow ``news``. What is at and below ``news.staff`` is for those who have followed ``staff`` before."""

    def __init__(self) -> None:
        self._staff: set[str] = set()

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> bool | Decision:
        if topic == "staff":
            self._staff.add(identity.client)
        if identity.client in self._staff:
            return True
        if topic.startswith("news.staff"):
            return Decision(False, "news.staff is for staff")
        return Decision(True, denied=("news.staff",))

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


class Rechecked:
    """Is asked about a subscription all the time, and takes a while to answer. A few times it says yes."""

    def __init__(self) -> None:
        self._asked: Counter[tuple[str, str]] = Counter()

    async def may_subscribe(self, identity: Identity, topic: str) -> bool | Decision:
        self._asked[identity.client, topic] += 1
        await asyncio.sleep(0.03)
        if topic == "brief" and self._asked[identity.client, topic] > 8:
            return Decision(False, "the time is up")
        return Decision(True, denied=("news.staff",), recheck_after=0.02)

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True
