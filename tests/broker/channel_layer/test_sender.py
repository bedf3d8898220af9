"""Publishing to a broker from a process that is no member of it: see tests/broker/channel_layer/test_redis.py for real layers."""

import asyncio
import json
import threading
from collections.abc import Callable
from time import monotonic

import pytest

from dwsps_channels.broker.channel_layer import blocking
from dwsps_channels.broker.channel_layer.sender import ChannelLayerSender
from dwsps_channels.core.broker import SendResult
from tests.broker.channel_layer.layers import Layer
from tests.broker.contract import publication


@pytest.fixture
def layer() -> Layer:
    return Layer()


@pytest.fixture
def sender(layer: Layer) -> ChannelLayerSender:
    return ChannelLayerSender(lambda: layer, group="dwsps.broker")


def soon(seconds: float = 30.0) -> float:
    return monotonic() + seconds


def test_what_is_sent_is_numbered(layer: Layer, sender: ChannelLayerSender) -> None:
    for number in range(3):
        assert sender.publish(publication(number), soon()) == SendResult()
    assert [each["first"] for each in layer.sent] == [0, 1, 2]
    assert len({each["sender"] for each in layer.sent}) == 1


def test_no_event_loop_is_left_in_the_callers_thread_and_none_has_to_be_away(
    layer: Layer, sender: ChannelLayerSender
) -> None:
    async def call() -> None:
        sender.publish(publication(1), soon())

    sender.publish(publication(0), soon())
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    asyncio.run(call())
    assert len(layer.sent) == 2


def test_the_layer_is_closed_after_each(sender: ChannelLayerSender, layer: Layer) -> None:
    threads = threading.active_count()
    sender.publish(publication(0), soon())
    assert threading.active_count() == threads
    sender.close()
    sender.close()


def test_what_the_layer_does_not_take_is_told_and_the_next_goes_out(
    layer: Layer, sender: ChannelLayerSender
) -> None:
    layer.mute = True
    with pytest.raises(ConnectionError, match="the layer takes nothing"):
        sender.publish(publication(1), soon())
    sender.publish(publication(2), soon())
    [message] = layer.sent
    assert [each["message"] for each in json.loads(message["batch"])] == [2]


def test_a_number_is_never_used_again(layer: Layer, sender: ChannelLayerSender) -> None:
    """A message whose sending failed may have arrived all the same."""
    sender.publish(publication(1), soon())
    layer.away = True
    with pytest.raises(ConnectionError):
        sender.publish(publication(2), soon())
    layer.away = False
    sender.publish(publication(3), soon())
    assert [each["first"] for each in layer.sent] == [0, 2]


def test_a_layer_that_does_not_answer_is_not_waited_for_for_ever(
    layer: Layer, sender: ChannelLayerSender
) -> None:
    layer.open.clear()
    with pytest.raises(TimeoutError):
        sender.publish(publication(1), soon(0.05))
    layer.open.set()
    sender.publish(publication(2), soon())


def test_a_layer_that_cannot_be_made_is_told_too() -> None:
    def make() -> Layer:
        raise ConnectionError("no such layer")

    with pytest.raises(ConnectionError, match="no such layer"):
        ChannelLayerSender(make, group="dwsps.broker").publish(publication(1), soon())


def test_where_threads_are_greenlets_it_says_what_to_use(
    sender: ChannelLayerSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched: Callable[[], str] = lambda: "gevent"  # noqa: E731
    monkeypatch.setattr(blocking, "patched_threads", patched)
    with pytest.raises(ConnectionError, match="gevent has replaced threads: use RedisBackend"):
        sender.publish(publication(1), soon())
