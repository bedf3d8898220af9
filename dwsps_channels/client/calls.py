"""The requests that were sent on a connection and are not answered yet."""

from collections.abc import Callable
from dataclasses import dataclass

from dwsps_channels.client.errors import CallError
from dwsps_channels.client.messages import Incoming
from dwsps_channels.protocol.messages import Action


@dataclass(slots=True, eq=False)
class Call:
    """One request. One of its three functions is called, once."""

    action: Action
    topic: str
    done: Callable[[Incoming], None]
    """It is acknowledged, by this frame."""
    fail: Callable[[CallError], None]
    """It is refused, or not answered in time."""
    lost: Callable[[str], None]
    """The connection broke; the argument says why."""
    sent_at: float = 0.0
    expired: bool = False
    """It has failed for want of an answer, and its answer may still come."""


class Calls:
    """They are answered by id, or in order by a server that gives no ids back."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}  # in order of sending, hence of deadline
        self._last_id = 0

    def add(self, call: Call) -> int:
        """Remember a call, and give its id."""
        self._last_id += 1
        self._calls[self._last_id] = call
        return self._last_id

    def take(
        self, id: object, action: object, topic: object, *, vague: bool = False
    ) -> Call | None:
        """Return the call that an ack or an error answers, if anybody still waits for it.

        Args:
            vague: what the answer does not name may be anything: the server could not read what it answers.
        """
        if id is None:
            # dwsps 1.0.1 echoes no id, but every server answers in order.
            for known, call in self._calls.items():
                if (call.action == action or (vague and action is None)) and (
                    call.topic == topic or (vague and topic is None)
                ):
                    id = known
                    break
        if not isinstance(id, int):
            return None
        found = self._calls.pop(id, None)
        return None if found is None or found.expired else found

    def waiting(self) -> list[Call]:
        """Those that somebody waits for, oldest first."""
        return [call for call in self._calls.values() if not call.expired]

    def clear(self) -> list[Call]:
        """Forget all, and give those that somebody waits for."""
        calls = self.waiting()
        self._calls.clear()
        return calls
