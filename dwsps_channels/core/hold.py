"""The hold on what a client is sent, while decisions about it are taken again."""

from collections.abc import Collection
from typing import Any, Final

from msgspec import Struct
from msgspec.json import Decoder

from dwsps_channels.core.subscription import Subscription
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.frames import Frame, Frames
from dwsps_channels.protocol.topics import contexts


class Hold:
    """Stands in for a session's transport: keeps what is sent, in order, until ``release`` or ``close``.

    All of it, and not only deliveries that may turn out to be forbidden: a client takes each offset and each cursor as a
    sign that it has everything before it.
    """

    broadcaster: Final = None

    def __init__(self, transport: Transport, limit: int, cursor: str) -> None:
        self.transport: Final = transport
        """The session's own."""
        self.cursor: Final = cursor
        """Everything up to it was sent before."""
        self.is_overrun = False
        """Set once more than ``limit`` bytes waited: they are lost."""
        self.verifying = 0
        """The look-ups of the client that are on their way."""
        self.undecided: dict[Subscription, int] = {}
        """The subscriptions that are being decided about, and the generation in which each was asked about last."""
        self._limit = limit
        self._size = 0
        # With the subscription of each delivery; the rest, such as acks, has none.
        self._kept: list[tuple[Subscription | None, Frame]] = []

    @property
    def buffered_bytes(self) -> int:
        """See ``Transport``; what is held is among these bytes."""
        return self.transport.buffered_bytes + self._size

    def send(self, frame: Frame) -> None:
        """Keep ``frame``, which is no live delivery."""
        self.keep(None, frame)

    def send_all(self, frames: Frames) -> None:
        """Keep ``frames``, a replay."""
        for frame in frames:
            self.keep(None, frame)

    def caught_up(self) -> Any:
        """See ``Transport``."""
        return self.transport.caught_up()

    def close(self, code: int, final_frame: Frame, *, discard: bool = False) -> None:
        """Close the session's transport, without what is held."""
        self._limit = -1  # from now on nothing is kept
        self._size = 0
        self._kept.clear()
        self.transport.close(code, final_frame, discard=discard)

    def keep(self, subscription: Subscription | None, frame: Frame) -> None:
        """Keep ``frame``, a delivery because of ``subscription``."""
        self._size += len(frame.data)
        if self.is_overrun or self.buffered_bytes > self._limit:
            self.is_overrun = True
            self._size = 0
            self._kept.clear()
        else:
            self._kept.append((subscription, frame))

    def release(self) -> None:
        """Send what is held, without deliveries to subscriptions that ended and those of denied sub-topics."""
        frames = Frames(
            [frame for subscription, frame in self._kept if _is_wanted(subscription, frame)]
        )
        if frames:
            self.transport.send_all(frames)


class HeldDelivery:
    """Stands in for the transport of one subscription, whose deliveries are held."""

    __slots__ = ("_hold", "_subscription")

    broadcaster: Final = None

    def __init__(self, hold: Hold, subscription: Subscription) -> None:
        self._hold = hold
        self._subscription = subscription

    def send(self, frame: Frame) -> None:
        """Keep a delivery."""
        self._hold.keep(self._subscription, frame)


class _Topic(Struct):
    topic: str


_decoder: Final = Decoder(_Topic)


def _is_wanted(subscription: Subscription | None, frame: Frame) -> bool:
    if subscription is None:
        return True
    standing = subscription.subscriber.subscriptions.get(subscription.topic)
    return standing is subscription and not is_denied(frame, subscription.denied)


def is_denied(frame: Frame, denied: Collection[str]) -> bool:
    """Tell whether ``frame``, a delivery, is of a topic at or below one of ``denied``."""
    if not denied:
        return False
    published_to = surrogates.decode(_decoder, frame.data).topic
    return not frozenset(denied).isdisjoint(contexts(published_to))
