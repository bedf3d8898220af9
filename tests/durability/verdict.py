"""The verdict on a trial: what became of each message at a subscriber of the peer."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.record import Message, Publisher


@dataclass(frozen=True)
class Verdict:
    """The messages at one subscriber that are not as they should be; all empty: each came once, and in order."""

    lost: list[Message]
    """Acknowledged, and not received."""
    doubled: list[Message]
    disordered: list[Message]
    """Received after a later one of their publisher."""
    refused: list[Message]
    """Refused, and received nevertheless."""
    unknown_received: int
    """The number of messages without an answer, or with the answer "not known", that were received: both may happen."""

    def faults(self, name: str) -> list[str]:
        """Return what is wrong at the subscriber ``name``, a line each kind."""
        kinds = {
            "lost": self.lost,
            "doubled": self.doubled,
            "out of order": self.disordered,
            "refused and received": self.refused,
        }
        return [
            f"{name}: {len(some)} {kind}: {', '.join(f'{one.publisher}/{one.number}' for one in some[:8])} …"
            for kind, some in kinds.items()
            if some
        ]


def judge(publishers: Iterable[Publisher], received: Sequence[Message]) -> Verdict:
    """Compare the outcomes of the publishers with what a subscriber received, in the order in which it did."""
    counts = Counter(received)
    lost, refused = [], []
    unknown_received = 0
    for publisher in publishers:
        for number in publisher.acknowledged:
            if Message(publisher.number, number) not in counts:
                lost.append(Message(publisher.number, number))
        for number in publisher.refused:
            if Message(publisher.number, number) in counts:
                refused.append(Message(publisher.number, number))
        unknown_received += sum(
            Message(publisher.number, number) in counts for number in publisher.unknown
        )
    disordered = []
    newest: dict[int, int] = {}
    for message in dict.fromkeys(received):
        if message.number < newest.get(message.publisher, -1):
            disordered.append(message)
        else:
            newest[message.publisher] = message.number
    return Verdict(
        sorted(lost),
        sorted(message for message, count in counts.items() if count > 1),
        disordered,
        sorted(refused),
        unknown_received,
    )
