"""Publishing to a bus from a process that is no member of it."""

import asyncio
import json

import pytest

from dwsps_channels.bus import sender as module
from dwsps_channels.bus.channel_layer import ChannelLayerBus
from dwsps_channels.bus.sender import ChannelLayerSender
from dwsps_channels.core.errors import Unavailable
from tests.bus.contract import Member, publication
from tests.bus.layers import Layer


@pytest.fixture
def layer() -> Layer:
    return Layer()


@pytest.fixture
def sender(layer: Layer) -> ChannelLayerSender:
    return ChannelLayerSender(lambda: layer, group="dwsps.bus")


async def test_every_member_gets_each_once_and_in_order(
    layer: Layer, sender: ChannelLayerSender
) -> None:
    buses = [ChannelLayerBus(lambda: layer, process_id=name) for name in ("one", "two")]
    members = [Member(bus) for bus in buses]
    for member in members:
        await member.start()
    # At once: the order is that of the calls.
    await asyncio.gather(*(sender.publish(publication(number)) for number in range(20)))
    for member in members:
        await member.receives(20)
        assert member.numbers == list(range(20))
    assert [bus.gaps for bus in buses] == [0, 0]
    for bus in buses:
        await bus.stop()


async def test_the_layer_is_made_with_the_first_and_kept(layer: Layer) -> None:
    made = 0

    def make() -> Layer:
        nonlocal made
        made += 1
        return layer

    sender = ChannelLayerSender(make, group="dwsps.bus")
    assert made == 0
    for number in range(3):
        await sender.publish(publication(number))
    assert made == 1
    await sender.close()
    await sender.close()


async def test_what_the_layer_does_not_take_is_unavailable_and_the_next_goes_out(
    layer: Layer, sender: ChannelLayerSender
) -> None:
    layer.mute = True
    with pytest.raises(Unavailable, match="the layer takes nothing"):
        await sender.publish(publication(1))
    await sender.publish(publication(2))
    [message] = layer.sent
    assert [each["message"] for each in json.loads(message["batch"])] == [2]


async def test_a_number_is_never_used_again(layer: Layer, sender: ChannelLayerSender) -> None:
    """What failed may have arrived all the same."""
    await sender.publish(publication(1))
    layer.away = True
    with pytest.raises(Unavailable):
        await sender.publish(publication(2))
    layer.away = False
    await sender.publish(publication(3))
    assert [each["first"] for each in layer.sent] == [0, 2]


async def test_a_layer_that_does_not_answer_is_not_waited_for_for_ever(
    layer: Layer, sender: ChannelLayerSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEND_TIMEOUT", 0.05)
    layer.open.clear()
    with pytest.raises(Unavailable, match="no answer"):
        await sender.publish(publication(1))
    layer.open.set()
    await sender.publish(publication(2))


async def test_a_layer_that_cannot_be_made_is_unavailable_too() -> None:
    def make() -> Layer:
        raise ConnectionError("no such layer")

    with pytest.raises(Unavailable, match="no such layer"):
        await ChannelLayerSender(make, group="dwsps.bus").publish(publication(1))
