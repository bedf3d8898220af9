"""The user of a connection, as topic rules see it."""

from collections.abc import Hashable
from typing import Final

from msgspec import Struct


class Rights(Struct, frozen=True):
    """The rights of a logged-in user, as far as rules ask for them."""

    is_staff: bool = False
    permissions: frozenset[str] = frozenset()
    """``app_label.codename``."""
    groups: frozenset[Hashable] = frozenset()
    """Primary keys."""


class Reader(Struct, frozen=True):
    """The user who subscribes or publishes."""

    is_authenticated: bool = False
    pk: str = ""
    """The primary key; empty: nobody is logged in."""
    username: str = ""
    rights: Rights | None = None
    """``None``: not loaded, as that takes a query."""


ANONYMOUS: Final = Reader()
