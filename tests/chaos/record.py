"""The record of a run: what was published and handed over, and what is wrong with it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

ROOT = "traffic"
SPREAD = 3


class Message(NamedTuple):
    """One message: the publisher's number, and the message's own."""

    publisher: int
    number: int

    @property
    def topic(self) -> str:
        return f"{ROOT}.p{self.publisher}.{self.number % SPREAD}"

    def is_below(self, topic: str) -> bool:
        return f"{self.topic}.".startswith(f"{topic}.")


class Position(NamedTuple):
    """A place in a log."""

    epoch: str
    offset: int

    @classmethod
    def parse(cls, cursor: str) -> "Position":
        epoch, _, offset = cursor.partition(":")
        return cls(epoch, int(offset))


@dataclass
class Segment:
    """A part of a subscription without a reset: all of the log after ``start``, up to ``end``."""

    start: Position
    end: Position
    received: list[tuple[Position, Message]] = field(default_factory=list)


@dataclass
class Subscription:
    """The messages that were handed over to one subscription of a client: a segment, and one more for each reset."""

    name: str
    topic: str
    segments: list[Segment] = field(default_factory=list)


@dataclass
class Publisher:
    """The outcomes of one publisher's messages, by number."""

    number: int
    acknowledged: dict[int, int] = field(default_factory=dict)
    """The offsets of the acks."""
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    """Refused, with the word that some may have had it; or without an answer, and not sent again."""


@dataclass
class Record:
    """All publishers and subscriptions of a run."""

    publishers: list[Publisher]
    subscriptions: list[Subscription]

    def faults(self) -> list[str]:
        """Return what is wrong, a line each; empty: nothing was lost, doubled or out of order."""
        log, faults = self._log()
        return [
            *faults,
            *self._disorder(),
            *self._doubles(),
            *self._wrong_acks(log),
            *self._refused_but_delivered(log),
            *self._losses(log),
        ]

    def figures(self) -> dict[str, int]:
        """Return the size of the run."""
        return {
            "acknowledged": sum(len(one.acknowledged) for one in self.publishers),
            "refused": sum(len(one.refused) for one in self.publishers),
            "unknown": sum(len(one.unknown) for one in self.publishers),
            "deliveries": sum(len(segment.received) for _, segment in self._segments()),
            "subscriptions": len(self.subscriptions),
            "epochs": len({segment.start.epoch for _, segment in self._segments()}),
            "resets": sum(len(one.segments) - 1 for one in self.subscriptions if one.segments),
        }

    def _segments(self) -> Iterator[tuple[Subscription, Segment]]:
        for subscription in self.subscriptions:
            for segment in subscription.segments:
                yield subscription, segment

    def _log(self) -> tuple[dict[Position, Message], list[str]]:
        """Put the log together from all that received a part of it."""
        log: dict[Position, Message] = {}
        faults = []
        for subscription, segment in self._segments():
            for position, message in segment.received:
                other = log.setdefault(position, message)
                if other != message:
                    faults.append(
                        f"two logs: {position} is {message} at {subscription.name}, {other} elsewhere"
                    )
        return log, faults

    def _disorder(self) -> Iterator[str]:
        for subscription, segment in self._segments():
            for (one, _), (next_one, message) in pairwise(segment.received):
                if next_one.epoch != one.epoch or next_one.offset <= one.offset:
                    yield f"order: {subscription.name} received {next_one}, {message}, after {one}"
        # A publisher's messages stand in the log in the order of its publishes.
        log, _ = self._log()
        last: dict[tuple[str, int], int] = {}
        for position, message in sorted(log.items()):
            key = (position.epoch, message.publisher)
            if message.number < last.get(key, -1):
                yield f"order: {message} comes after {last[key]} of its publisher, at {position}"
            last[key] = message.number

    def _doubles(self) -> Iterator[str]:
        # In another epoch it may come again: that is what a reset tells.
        for subscription in self.subscriptions:
            counts = Counter(
                (position.epoch, message)
                for segment in subscription.segments
                for position, message in segment.received
            )
            for (epoch, message), count in counts.items():
                if count > 1:
                    yield f"double: {subscription.name} received {message} {count} times in {epoch}"

    def _wrong_acks(self, log: dict[Position, Message]) -> Iterator[str]:
        offsets: defaultdict[Message, set[int]] = defaultdict(set)
        for position, message in log.items():
            offsets[message].add(position.offset)
        for publisher in self.publishers:
            for number, offset in publisher.acknowledged.items():
                found = offsets.get(Message(publisher.number, number))
                if not found or offset in found:
                    continue
                # Acknowledged in one epoch and sent again in the next, it may have another offset.
                if len(self._epochs_around(publisher, number, log)) == 1:
                    yield f"ack: {publisher.number}/{number} has offset {offset}, delivered at {found}"

    def _refused_but_delivered(self, log: dict[Position, Message]) -> Iterator[str]:
        for position, message in log.items():
            if message.number in self.publishers[message.publisher].refused:
                yield f"refused: {message} was refused, and delivered at {position}"

    def _losses(self, log: dict[Position, Message]) -> Iterator[str]:
        whole = log | self._acknowledged_only(log)
        by_epoch: defaultdict[str, list[tuple[int, Message]]] = defaultdict(list)
        for position, message in sorted(whole.items()):
            by_epoch[position.epoch].append((position.offset, message))
        for subscription, segment in self._segments():
            received = {message for _, message in segment.received}
            missing = [
                message
                for offset, message in by_epoch[segment.start.epoch]
                if segment.start.offset < offset <= segment.end.offset
                and message.is_below(subscription.topic)
                and message not in received
            ]
            if missing:
                some = ", ".join(f"{one.publisher}/{one.number}" for one in missing[:5])
                yield (
                    f"lost: {len(missing)} messages at {subscription.name} ({subscription.topic}) between "
                    f"{segment.start} and {segment.end}: {some} …"
                )

    def _acknowledged_only(self, log: dict[Position, Message]) -> dict[Position, Message]:
        """Return the messages that were acknowledged and reached nobody, if their epoch is certain.

        It is not for a message that the end of an epoch took along: every subscription has a reset there.
        """
        delivered = set(log.values())
        found = {}
        for publisher in self.publishers:
            for number, offset in publisher.acknowledged.items():
                message = Message(publisher.number, number)
                if message not in delivered:
                    epochs = self._epochs_around(publisher, number, log)
                    if len(epochs) == 1:
                        found[Position(epochs.pop(), offset)] = message
        return found

    def _epochs_around(
        self, publisher: Publisher, number: int, log: dict[Position, Message]
    ) -> set[str]:
        """Return the epochs of the publisher's messages next to this one that were delivered."""
        places = self._places(log)[publisher.number]
        before = max((one for one in places if one < number), default=None)
        after = min((one for one in places if one > number), default=None)
        epochs: set[str] = set()
        for one in (before, number, after):
            if one is not None:
                epochs |= places.get(one, set())
        return epochs

    def _places(self, log: dict[Position, Message]) -> dict[int, dict[int, set[str]]]:
        if self._known_places is None:
            places: dict[int, dict[int, set[str]]] = defaultdict(dict)
            for position, message in log.items():
                places[message.publisher].setdefault(message.number, set()).add(position.epoch)
            self._known_places = places
        return self._known_places

    _known_places: dict[int, dict[int, set[str]]] | None = field(default=None, init=False)
