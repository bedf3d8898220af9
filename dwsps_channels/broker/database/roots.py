"""The parts of the log that are kept apart: what is below each root of ``conf.log_history``, and the rest."""

from collections.abc import Collection, Mapping
from typing import Final

from dwsps_channels.core.retention import Retention
from dwsps_channels.core.tail import PASSING
from dwsps_channels.protocol.topics import contexts

REST: Final = ""
"""The name of the part that is below no root."""


class Roots:
    """The roots by name, and ``REST``, each with its bounds in the log and in the tail."""

    def __init__(
        self,
        log: Retention,
        tail: Retention,
        history: Mapping[str, Retention | None] = {},
    ) -> None:
        """Take the bounds of what is below no root, in the log and in the tail; ``history``: those of the roots.

        A root bounds what clients recover. Peers that are away get what is below it for as long as the rest of the log.
        """
        self.log: Mapping[str, Retention] = {
            REST: log,
            **{root: _both(each, log) if each else PASSING for root, each in history.items()},
        }
        """The bounds in the log."""
        self.tail: Mapping[str, Retention] = {
            REST: tail,
            **{root: each for root, each in history.items() if each is not None},
        }
        """The bounds in the tail, of those that it keeps."""

    def root_of(self, topic: str) -> str:
        """Return the longest root that ``topic`` is at or below, or ``REST``."""
        return root_of(topic, self.log) if len(self.log) > 1 else REST

    def around(self, topic: str) -> set[str]:
        """Return the roots that have what is at and below ``topic``."""
        return around(topic, self.log)


def _both(one: Retention, other: Retention) -> Retention:
    """Return the bounds within which everything is that either keeps."""
    return Retention(
        max(one.messages, other.messages),
        max(one.bytes, other.bytes),
        max(one.seconds, other.seconds),
    )


def root_of(topic: str, roots: Collection[str]) -> str:
    """Return the longest of ``roots`` that ``topic`` is at or below, or ``REST``."""
    return next((each for each in contexts(topic) if each in roots), REST)


def around(topic: str, roots: Collection[str]) -> set[str]:
    """Return those of ``roots`` that have what is at and below ``topic``."""
    return {root_of(topic, roots)} | {each for each in roots if each.startswith(f"{topic}.")}
