"""Who gets a frame, and by what way."""

from collections.abc import Collection
from typing import Any

import pytest

from dwsps_channels.core.audience import CROWD, Audience, Subscriber
from dwsps_channels.protocol.frames import Frame
from tests.core.recording import RecordingTransport

FRAME = Frame(b"{}")


class RecordingCourier:
    def __init__(self) -> None:
        self.deliveries: list[tuple[Frame, Collection[Any]]] = []

    def deliver(self, frame: Frame, party: Collection[Any]) -> None:
        self.deliveries.append((frame, party))


class Carried(RecordingTransport):
    def __init__(self, courier: RecordingCourier) -> None:
        super().__init__()
        self.courier = courier  # type: ignore[assignment]


@pytest.fixture
def courier() -> RecordingCourier:
    return RecordingCourier()


def filled(*transports: RecordingTransport) -> Audience:
    audience = Audience()
    for transport in transports:
        audience.add(Subscriber(transport))
    return audience


def test_a_few_are_each_sent_to(courier: RecordingCourier) -> None:
    few = [Carried(courier) for _ in range(CROWD - 1)]
    filled(*few).deliver(FRAME)
    assert courier.deliveries == []
    assert [each.frames for each in few] == [[FRAME]] * len(few)


def test_a_crowd_is_left_to_its_courier(courier: RecordingCourier) -> None:
    crowd = [Carried(courier) for _ in range(CROWD)]
    filled(*crowd).deliver(FRAME)
    ((frame, party),) = courier.deliveries
    assert frame is FRAME
    assert list(party) == crowd
    assert [each.frames for each in crowd] == [[]] * len(crowd)


def test_who_has_no_courier_is_sent_to_and_others_are_each_left_to_theirs(
    courier: RecordingCourier,
) -> None:
    other = RecordingCourier()
    on_foot = [RecordingTransport() for _ in range(3)]
    carried = [Carried(courier) for _ in range(CROWD)]
    carried_too = [Carried(other) for _ in range(2)]
    filled(
        on_foot[0], carried[0], carried_too[0], *on_foot[1:], *carried[1:], carried_too[1]
    ).deliver(FRAME)
    assert [each.frames for each in on_foot] == [[FRAME]] * 3
    assert [list(party) for _, party in courier.deliveries] == [carried]
    assert [list(party) for _, party in other.deliveries] == [carried_too]


def test_a_party_is_the_same_one_until_somebody_comes_or_goes(courier: RecordingCourier) -> None:
    subscribers = [Subscriber(Carried(courier)) for _ in range(CROWD + 2)]
    audience = Audience()
    for subscriber in subscribers[:-1]:
        audience.add(subscriber)
    audience.deliver(FRAME)
    audience.deliver(FRAME)
    audience.add(subscribers[-1])
    audience.deliver(FRAME)
    audience.remove(subscribers[0])
    audience.deliver(FRAME)

    first, second, third, fourth = (party for _, party in courier.deliveries)
    assert first is second
    transports = [subscriber.transport for subscriber in subscribers]
    assert list(first) == transports[:-1]  # as it was when it was given
    assert list(third) == transports
    assert list(fourth) == transports[1:]
