"""Policies that query the database once for each question about a subscription, and count the questions."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from django.contrib.auth import get_user_model
from django.db import OperationalError

from dwsps_channels.policies import Identity, nonblocking


class Count:
    """The questions since the last ``reset``."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._now = 0
        self.fails = False
        """True: each question fails."""
        self.reset()

    def reset(self, *, fails: bool = False) -> None:
        self.total = self.most_at_once = 0
        self.fails = fails

    @contextmanager
    def question(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.total += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
            if self.fails:
                raise OperationalError("the database has gone")
        finally:
            with self._lock:
                self._now -= 1


count = Count()


class Plain:
    """The plain policy: its questions are answered in threads."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        with count.question():
            return get_user_model().objects.filter(pk=identity.user.pk, is_active=True).exists()

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated


class Async:
    """The same with ``async def``."""

    async def may_subscribe(self, identity: Identity, topic: str) -> bool:
        with count.question():
            users = get_user_model().objects.filter(pk=identity.user.pk, is_active=True)
            return await users.aexists()

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated
