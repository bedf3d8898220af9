"""The audience of a topic: receivers, and the way of a frame to them."""

from collections.abc import Collection
from typing import Any

import pytest

from dwsps_channels.core.audience import MIN_BROADCAST, Audience
from dwsps_channels.core.subscription import Subscriber, Subscription
from dwsps_channels.protocol.frames import Frame
from tests.core.recording import RecordingTransport

FRAME = Frame(b"{}")


class RecordingBroadcaster:
    def __init__(self) -> None:
        self.broadcasts: list[tuple[Frame, Collection[Any]]] = []

    def broadcast(self, frame: Frame, group: Collection[Any]) -> None:
        self.broadcasts.append((frame, group))


class Carried(RecordingTransport):
    def __init__(self, broadcaster: RecordingBroadcaster) -> None:
        super().__init__()
        self.broadcaster = broadcaster  # type: ignore[assignment]


@pytest.fixture
def broadcaster() -> RecordingBroadcaster:
    return RecordingBroadcaster()


def filled(*transports: RecordingTransport) -> Audience:
    audience = Audience()
    for transport in transports:
        audience.add(Subscription(Subscriber(transport), "news"))
    return audience


def test_a_few_are_each_sent_to(broadcaster: RecordingBroadcaster) -> None:
    few = [Carried(broadcaster) for _ in range(MIN_BROADCAST - 1)]
    filled(*few).deliver(FRAME)
    assert broadcaster.broadcasts == []
    assert [each.frames for each in few] == [[FRAME]] * len(few)


def test_many_are_left_to_its_broadcaster(broadcaster: RecordingBroadcaster) -> None:
    many = [Carried(broadcaster) for _ in range(MIN_BROADCAST)]
    filled(*many).deliver(FRAME)
    ((frame, group),) = broadcaster.broadcasts
    assert frame is FRAME
    assert list(group) == many
    assert [each.frames for each in many] == [[]] * len(many)


def test_who_has_no_courier_is_sent_to_and_others_are_each_left_to_theirs(
    broadcaster: RecordingBroadcaster,
) -> None:
    other = RecordingBroadcaster()
    on_foot = [RecordingTransport() for _ in range(3)]
    carried = [Carried(broadcaster) for _ in range(MIN_BROADCAST)]
    carried_too = [Carried(other) for _ in range(2)]
    filled(
        on_foot[0], carried[0], carried_too[0], *on_foot[1:], *carried[1:], carried_too[1]
    ).deliver(FRAME)
    assert [each.frames for each in on_foot] == [[FRAME]] * 3
    assert [list(group) for _, group in broadcaster.broadcasts] == [carried]
    assert [list(group) for _, group in other.broadcasts] == [carried_too]


def test_a_group_is_the_same_one_until_somebody_comes_or_goes(
    broadcaster: RecordingBroadcaster,
) -> None:
    subscriptions = [
        Subscription(Subscriber(Carried(broadcaster)), "news") for _ in range(MIN_BROADCAST + 2)
    ]
    audience = Audience()
    for subscription in subscriptions[:-1]:
        audience.add(subscription)
    audience.deliver(FRAME)
    audience.deliver(FRAME)
    audience.add(subscriptions[-1])
    audience.deliver(FRAME)
    audience.remove(subscriptions[0])
    audience.deliver(FRAME)

    first, second, third, fourth = (group for _, group in broadcaster.broadcasts)
    assert first is second
    transports = [each.subscriber.transport for each in subscriptions]
    assert list(first) == transports[:-1]  # as it was when it was given
    assert list(third) == transports
    assert list(fourth) == transports[1:]


def test_a_subscription_that_is_redirected_keeps_its_place(
    broadcaster: RecordingBroadcaster,
) -> None:
    many = [Carried(broadcaster) for _ in range(MIN_BROADCAST + 1)]
    audience = filled(*many)
    redirected = list(audience.subscriptions())[1]
    audience.deliver(FRAME)
    elsewhere = RecordingTransport()
    audience.redirect(redirected, elsewhere)
    audience.deliver(FRAME)
    audience.redirect(redirected, many[1])
    audience.deliver(FRAME)
    assert elsewhere.frames == [FRAME]
    assert [list(group) for _, group in broadcaster.broadcasts] == [
        many,
        [many[0], *many[2:]],
        many,
    ]


def test_a_subscription_is_redirected_in_the_parts_for_denied_topics_as_well() -> None:
    transports = [RecordingTransport() for _ in range(2)]
    audience = filled(*transports)
    first, second = audience.subscriptions()
    audience.deny(first, frozenset({"news.uk"}))
    audience.allowed("news.uk").deliver(FRAME)
    elsewhere = RecordingTransport()
    audience.redirect(second, elsewhere)
    audience.allowed("news.uk").deliver(FRAME)
    assert [each.frames for each in (*transports, elsewhere)] == [[], [FRAME], [FRAME]]
