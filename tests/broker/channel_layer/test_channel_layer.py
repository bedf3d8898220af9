import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from dwsps_channels.broker.channel_layer.batch import Batch
from dwsps_channels.broker.channel_layer.broker import MAX_BATCH_BYTES, ChannelLayerBroker
from dwsps_channels.protocol.errors import Unavailable
from tests.broker.channel_layer.layers import Layer
from tests.broker.contract import MakeBroker, Member, SharedBrokerContract, publication
from tests.processes import WAIT_TIMEOUT, wait_until_async

GROUP = "dwsps.broker.test"
LOGGER = "dwsps_channels.broker"


def make(layer: Layer, **options: Any) -> ChannelLayerBroker:
    return ChannelLayerBroker(lambda: layer, **{"process_id": "p", "group": GROUP, **options})


@pytest.fixture
def layer() -> Layer:
    return Layer()


class TestInMemory(SharedBrokerContract):
    @pytest.fixture
    def make_broker(self, layer: Layer) -> MakeBroker:
        return lambda: make(layer)

    @pytest.fixture
    def sever(self, layer: Layer) -> Callable[[], object]:
        return lambda: setattr(layer, "away", True)


class Pair:
    """Two brokers with a quick heartbeat on one layer."""

    def __init__(self, layer: Layer) -> None:
        self.one_broker = make(layer, process_id="one", heartbeat=0.1)
        self.other_broker = make(layer, process_id="other", heartbeat=0.1)
        self.one = Member(self.one_broker)
        self.other = Member(self.other_broker)

    @property
    def connected(self) -> bool:
        return self.one_broker.connected and self.other_broker.connected

    @property
    def cut_off(self) -> bool:
        return not self.one_broker.connected and not self.other_broker.connected


@pytest.fixture
async def pair(layer: Layer) -> AsyncIterator[Pair]:
    pair = Pair(layer)
    await pair.one.start()
    await pair.other.start()
    assert pair.connected
    yield pair
    layer.open.set()
    await pair.one_broker.stop()
    await pair.other_broker.stop()


async def test_publications_that_wait_for_the_layer_are_counted(pair: Pair, layer: Layer) -> None:
    layer.open.clear()
    published = [pair.one_broker.publish(publication(number)) for number in range(3)]
    assert pair.one_broker.stats().waiting == 3
    layer.open.set()
    for each in published:
        await each
    assert pair.one_broker.stats().waiting == 0


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.name.startswith(LOGGER)
    ]


class TestBatches:
    async def test_what_arrives_while_others_are_on_their_way_leaves_together(
        self, layer: Layer, pair: Pair
    ) -> None:
        layer.open.clear()
        for number in range(10):
            pair.one_broker.publish(publication(number))
        await asyncio.sleep(0)  # the sender has taken those, and is stuck
        for number in range(10, 100):
            pair.one_broker.publish(publication(number))
            await asyncio.sleep(0)
        layer.open.set()
        await pair.other.receives(100)
        assert pair.other.numbers == list(range(100))
        assert [len(json.loads(message["batch"])) for message in layer.sent] == [10, 90]

    async def test_are_bounded_in_bytes(self, layer: Layer, pair: Pair) -> None:
        large = b'"' + b"x" * 60_000 + b'"'
        for _ in range(20):
            pair.one_broker.publish(publication(large))
        await pair.other.receives(20)
        assert 5 <= len(layer.sent) <= 10
        assert all(len(message["batch"]) <= MAX_BATCH_BYTES for message in layer.sent)

    async def test_a_message_larger_than_a_batch_leaves_alone(
        self, layer: Layer, pair: Pair
    ) -> None:
        huge = b'"' + b"x" * (2 * MAX_BATCH_BYTES) + b'"'
        for message in (b"1", huge, b"2"):
            pair.one_broker.publish(publication(message))
        await pair.other.receives(3)
        assert pair.other.messages == [b"1", huge, b"2"]
        assert len(layer.sent) == 3

    async def test_an_answer_comes_when_its_batch_was_handed_over_and_not_before(
        self, layer: Layer, pair: Pair
    ) -> None:
        layer.open.clear()
        first = pair.one_broker.publish(publication(1))
        await asyncio.sleep(0)
        second = pair.one_broker.publish(publication(2))
        await asyncio.sleep(0)
        assert not first.done()
        assert not second.done()
        layer.open.set()
        await first
        await second

    async def test_a_publisher_that_gives_up_takes_nobody_along(
        self, layer: Layer, pair: Pair
    ) -> None:
        layer.open.clear()
        answers = [pair.one_broker.publish(publication(number)) for number in range(3)]
        answers[1].cancel()
        layer.open.set()
        await answers[0]
        await answers[2]
        await pair.other.receives(3)
        assert pair.other.numbers == [0, 1, 2]


class TestBounds:
    async def test_refuses_at_once_when_too_many_wait(self, layer: Layer) -> None:
        broker = make(layer, max_waiting=3)
        await Member(broker).start()
        answers = [broker.publish(publication(number)) for number in range(5)]
        assert [answer.done() for answer in answers] == [False, False, False, True, True]
        for refused in answers[3:]:
            with pytest.raises(Unavailable, match="too many messages wait"):
                await refused
        for accepted in answers[:3]:
            await accepted
        await broker.publish(publication())
        await broker.stop()

    async def test_refuses_at_once_when_too_many_bytes_wait(self, layer: Layer) -> None:
        broker = make(layer, max_waiting_bytes=100_000)
        await Member(broker).start()
        large = publication(b'"' + b"x" * 40_000 + b'"')
        answers = [broker.publish(large) for _ in range(3)]
        assert [answer.done() for answer in answers] == [False, False, True]
        with pytest.raises(Unavailable, match="too many messages wait"):
            await answers[2]
        await broker.stop()

    async def test_bytes_that_were_sent_wait_no_longer(self, layer: Layer) -> None:
        broker = make(layer, max_waiting_bytes=100_000)
        await Member(broker).start()
        for _ in range(5):
            await broker.publish(publication(b'"' + b"x" * 60_000 + b'"'))
        await broker.stop()

    async def test_refuses_those_in_line_behind_one_that_fails(self, layer: Layer) -> None:
        broker = make(layer)
        await Member(broker).start()
        layer.open.clear()
        first = broker.publish(publication(1))
        await asyncio.sleep(0)
        second = broker.publish(publication(2))
        layer.mute = True
        layer.open.set()
        for answer in (first, second):
            with pytest.raises(Unavailable, match="could not be told"):
                await answer
        assert layer.sent == []
        await broker.stop()

    async def test_refuses_those_in_line_when_nothing_goes_through(
        self, layer: Layer, pair: Pair
    ) -> None:
        layer.open.clear()
        first = pair.one_broker.publish(publication(1))
        await asyncio.sleep(0)
        second = pair.one_broker.publish(publication(2))
        for answer in (first, second):
            with pytest.raises(Unavailable):
                await answer

    async def test_a_refusal_that_nobody_waits_for_makes_no_noise(
        self, layer: Layer, pair: Pair
    ) -> None:
        noise: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: noise.append(context)
        )
        layer.away = True
        for number in range(10):
            pair.one_broker.publish(publication(number))
        await wait_until_async(lambda: pair.cut_off)
        pair.one_broker.publish(publication())
        gc.collect()
        await asyncio.sleep(0)
        assert noise == []

    @pytest.mark.parametrize("group", ["", "with space", "é", "x" * 100, "a:b"])
    def test_refuses_a_group_that_not_every_layer_takes(self, layer: Layer, group: str) -> None:
        with pytest.raises(ValueError, match="group"):
            make(layer, group=group)


class TestGaps:
    async def test_are_counted_and_logged_once_each(
        self, layer: Layer, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        await pair.one.publish(publication(0))
        await pair.other.receives(1)
        layer.losing = True
        await asyncio.gather(*(pair.one.publish(publication(number)) for number in (1, 2, 3)))
        layer.losing = False
        await pair.one.publish(publication(4))
        await pair.other.receives(2)
        warnings = logged(caplog, logging.WARNING)
        assert len(warnings) == 2
        # The publisher's process has missed its own as well: it delivers what comes back.
        for broker, member, warning in (
            (pair.one_broker, pair.one, warnings[0]),
            (pair.other_broker, pair.other, warnings[1]),
        ):
            assert member.numbers == [0, 4]
            assert member.misses == 1
            assert (broker.stats().gaps, broker.stats().missed) == (1, 3)
            assert (broker.stats().gaps, broker.stats().missed) == (1, 3)
            assert warning.startswith("missed 3 messages of process one:")
            assert "number 4 came instead of 1" in warning

    async def test_at_the_end_are_found_by_the_heartbeat(self, layer: Layer, pair: Pair) -> None:
        await pair.one.publish(publication(0))
        layer.losing = True
        await pair.one.publish(publication(1))
        await wait_until_async(lambda: pair.other_broker.stats().gaps)
        assert pair.other.misses == 1
        assert (pair.other_broker.stats().gaps, pair.other_broker.stats().missed) == (1, 1)

    async def test_are_found_by_one_that_has_only_just_joined(self, layer: Layer) -> None:
        brokers = [make(layer, heartbeat=600.0) for _ in range(2)]
        old, new = (Member(broker) for broker in brokers)
        await old.start()
        await old.publish(publication(0))
        await new.start()
        await wait_until_async(lambda: layer.beats > 2)  # the old one has heard of the new one
        layer.losing = True
        lost = brokers[0].publish(publication(1))
        await wait_until_async(lambda: len(layer.sent) == 2)
        assert not lost.done()
        layer.losing = False
        await old.publish(publication(2))
        await lost  # the layer took it, and it will not come back
        await new.receives(1)
        assert new.numbers == [2]
        assert brokers[1].stats().missed == 1
        for broker in brokers:
            await broker.stop()

    async def test_there_are_none_without_loss(self, layer: Layer, pair: Pair) -> None:
        for number in range(100):
            await pair.one.publish(publication(number))
        await pair.other.receives(100)
        await pair.one_broker.stop()
        assert pair.other_broker.stats().gaps == pair.other.misses == 0

    async def test_what_arrives_twice_is_delivered_once(self, layer: Layer, pair: Pair) -> None:
        layer.twice = True
        for number in range(10):
            await pair.one.publish(publication(number))
        layer.twice = False
        await pair.one.publish(publication(10))
        await pair.other.receives(11)
        assert pair.other.numbers == list(range(11))
        assert pair.other_broker.stats().gaps == 0

    async def test_a_process_id_that_is_used_again_is_another_process(self, layer: Layer) -> None:
        brokers = [make(layer, process_id="same") for _ in range(3)]
        first, second, third = (Member(broker) for broker in brokers)
        await first.start()
        await third.start()
        for number in range(3):
            await first.publish(publication(number))
        await first.broker.stop()
        await second.start()
        await second.publish(publication(3))
        await third.receives(4)
        assert third.numbers == [0, 1, 2, 3]
        assert brokers[2].stats().gaps == 0
        await second.broker.stop()
        await third.broker.stop()


class TestOwnPublications:
    """Own publications come back through the layer, like those of other processes."""

    async def test_are_delivered_before_they_are_answered(self, layer: Layer, pair: Pair) -> None:
        answers = [pair.one_broker.publish(publication(number)) for number in range(10)]
        delivered: list[int] = []
        for answer in answers:
            answer.add_done_callback(lambda _: delivered.append(len(pair.one.received)))
        await asyncio.gather(*answers)
        await asyncio.sleep(0)
        assert delivered == [10] * 10  # they were one batch

    async def test_are_in_the_order_of_the_layer(self, layer: Layer, pair: Pair) -> None:
        for number in range(50):
            pair.one_broker.publish(publication(number))
            pair.other_broker.publish(publication(-number))
            await asyncio.sleep(0)
        await pair.one.receives(100)
        await pair.other.receives(100)
        assert pair.one.numbers == pair.other.numbers

    async def test_that_were_refused_are_not_missed(
        self, layer: Layer, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        await pair.one.publish(publication(0))
        layer.mute = True
        with pytest.raises(Unavailable):
            await pair.one.publish(publication(1))
        await wait_until_async(lambda: pair.connected)
        await pair.one.publish(publication(2))
        assert pair.one.numbers == [0, 2]
        assert (pair.one_broker.stats().gaps, pair.one_broker.stats().missed) == (0, 0)

    async def test_that_came_back_were_taken_whatever_the_layer_says(
        self, layer: Layer, pair: Pair
    ) -> None:
        layer.lying = True
        await pair.one.publish(publication(1))
        assert pair.one.numbers == [1]
        await pair.other.receives(1)

    async def test_that_do_not_come_back_are_answered_when_the_layer_is_lost(
        self, layer: Layer, pair: Pair
    ) -> None:
        layer.losing = True
        answer = pair.one_broker.publish(publication(1))
        await wait_until_async(lambda: layer.sent)
        layer.away = True
        await answer
        assert pair.one.received == []

    async def test_that_are_taken_once_the_layer_is_lost_are_answered_at_once(
        self, layer: Layer
    ) -> None:
        broker = make(layer, heartbeat=600.0)
        await Member(broker).start()
        layer.open.clear()
        answer = broker.publish(publication(1))
        await asyncio.sleep(0)  # the sender has taken it, and is stuck
        layer.away = layer.losing = True
        # A heartbeat leaves at once if another process comes, and meets a layer that is away.
        await InMemoryChannelLayer.group_send(layer, GROUP, Batch("new", 0, []).message())
        await wait_until_async(lambda: not broker.connected)
        assert not answer.done()
        layer.open.set()
        async with asyncio.timeout(WAIT_TIMEOUT):
            await answer
        await broker.stop()

    async def test_that_do_not_come_back_are_answered_by_the_stop(self, layer: Layer) -> None:
        broker = make(layer, heartbeat=600.0)
        await Member(broker).start()
        layer.losing = True
        answer = broker.publish(publication(1))
        await wait_until_async(lambda: layer.sent)
        await broker.stop()
        await answer


class TestMalformedMessages:
    @pytest.mark.parametrize(
        "message",
        [
            {"type": "somebody.elses"},
            {"type": "dwsps.broker"},
            {"type": "dwsps.broker", "sender": "x", "first": 0, "batch": "[{"},
            {"type": "dwsps.broker", "sender": "x", "first": 0, "batch": '[{"topic":1}]'},
            {
                "type": "dwsps.broker",
                "sender": "x",
                "first": 0,
                "batch": '[{"topic":"a","timestamp":"","message":' + "[" * 100_000,
            },
            {"type": "dwsps.broker", "sender": "x", "first": -1, "batch": "[]"},
            {"type": "dwsps.broker", "sender": None, "first": 0, "batch": "[]"},
            {"type": "dwsps.broker", "sender": "x", "first": 0, "batch": b"\xff"},
            {"type": "dwsps.broker", "sender": "x", "first": 0, "batch": '"\ud800"'},
            {},
        ],
        ids=lambda message: repr(message)[:80],
    )
    async def test_are_logged_and_skipped(
        self,
        layer: Layer,
        pair: Pair,
        caplog: pytest.LogCaptureFixture,
        message: dict[str, Any],
    ) -> None:
        await layer.group_send(GROUP, message)
        await pair.one.publish(publication(1))
        await pair.other.receives(1)
        assert pair.other.numbers == [1]
        warnings = logged(caplog, logging.WARNING)
        assert len(warnings) == 2  # one of each broker
        assert all("skipped a message" in warning for warning in warnings)

    async def test_one_that_cannot_be_read_costs_no_other_of_its_batch(
        self, layer: Layer, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        deep = publication(b"[" * 100_000 + b"]" * 100_000)
        await layer.group_send(
            GROUP, Batch("x", 0, [publication(1), deep, publication(2)]).message()
        )
        await pair.other.receives(2)
        assert pair.other.numbers == [1, 2]
        assert pair.other_broker.stats().missed == pair.other.misses == 1
        assert all("cannot be read" in warning for warning in logged(caplog, logging.WARNING))

    async def test_what_the_layer_cannot_decode_is_logged_and_skipped(
        self, layer: Layer, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        layer.garbled = True
        await wait_until_async(lambda: logged(caplog, logging.WARNING))
        await pair.one.publish(publication(1))
        await pair.other.receives(1)
        assert pair.connected
        assert logged(caplog, logging.WARNING) == [f"on group {GROUP}: receiving failed: garbled"]

    async def test_do_not_flood_the_log(
        self, layer: Layer, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(50):
            await layer.group_send(GROUP, {"type": "somebody.elses"})
        await pair.one.publish(publication(1))
        await pair.other.receives(1)
        assert len([text for text in logged(caplog, logging.WARNING) if "skipped" in text]) == 2


class TestOutage:
    async def test_is_logged_once_and_so_is_its_end(
        self, layer: Layer, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, LOGGER)
        layer.away = True
        await wait_until_async(lambda: pair.cut_off)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await pair.one.publish(publication())
        tried = layer.calls
        await wait_until_async(lambda: layer.calls > tried + 20)  # each logged nothing
        layer.away = False
        await wait_until_async(lambda: pair.connected)
        await pair.one.publish(publication(1))
        await pair.other.receives(1)
        warnings, infos = logged(caplog, logging.WARNING), logged(caplog, logging.INFO)
        assert len(warnings) == 2  # one of each broker
        assert all("cannot be reached: the layer is away" in warning for warning in warnings)
        assert len(infos) == 2
        assert all("can be reached again, after" in info for info in infos)

    async def test_is_noticed_by_the_first_publication_that_fails(self, layer: Layer) -> None:
        broker = make(layer, heartbeat=600.0)
        await Member(broker).start()
        layer.away = True
        with pytest.raises(Unavailable, match="could not be told"):
            await broker.publish(publication())
        await wait_until_async(lambda: not broker.connected)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await broker.publish(publication())
        await broker.stop()

    async def test_a_failure_without_one_refuses_what_it_concerns_and_nothing_else(
        self, layer: Layer, pair: Pair
    ) -> None:
        await pair.one.publish(publication(0))
        layer.away = True
        answer = pair.one_broker.publish(publication(1))
        await asyncio.sleep(0)
        layer.away = False
        with pytest.raises(Unavailable):
            await answer
        await wait_until_async(lambda: pair.connected)  # should a heartbeat have met it as well
        await pair.one.publish(publication(2))
        await pair.other.receives(2)
        assert pair.other.numbers == [0, 2]
        assert pair.other_broker.stats().missed == 1

    async def test_a_group_that_was_forgotten_is_joined_again(
        self, layer: Layer, pair: Pair
    ) -> None:
        layer.forget_groups()
        await wait_until_async(lambda: len(layer.groups.get(GROUP, ())) == 2)
        await pair.one.publish(publication(1))
        await pair.other.receives(1)
        assert pair.connected

    async def test_a_start_during_it_returns_and_the_broker_goes_on_trying(
        self, layer: Layer, caplog: pytest.LogCaptureFixture
    ) -> None:
        layer.away = True
        broker = make(layer, heartbeat=0.1)
        await Member(broker).start()
        assert not broker.connected
        assert len(logged(caplog, logging.WARNING)) == 1
        with pytest.raises(Unavailable):
            await broker.publish(publication())
        layer.away = False
        await wait_until_async(lambda: broker.connected)
        await broker.publish(publication())
        await broker.stop()

    async def test_a_heartbeat_that_cannot_be_sent_is_not_waited_for(self, layer: Layer) -> None:
        layer.mute = True
        broker = make(layer, heartbeat=600.0)
        async with asyncio.timeout(WAIT_TIMEOUT):
            await Member(broker).start()
        assert not broker.connected
        await broker.stop()

    async def test_a_layer_that_cannot_be_closed_is_replaced(self) -> None:
        layers: list[Layer] = []

        def make_layer() -> Layer:
            layers.append(Layer())
            return layers[-1]

        broker = ChannelLayerBroker(make_layer, process_id="p", heartbeat=0.1)
        await Member(broker).start()
        layers[0].away = True
        await wait_until_async(lambda: len(layers) == 2)
        await wait_until_async(lambda: broker.connected)
        await broker.stop()

    async def test_a_layer_that_cannot_even_be_made_is_not_the_end(
        self, layer: Layer, pair: Pair
    ) -> None:
        made = 0

        def make_layer() -> Layer:
            nonlocal made
            made += 1
            if made == 2:
                raise OSError("no")
            return layer

        broker = ChannelLayerBroker(make_layer, process_id="p", group=GROUP, heartbeat=0.1)
        await Member(broker).start()
        layer.away = True
        await wait_until_async(lambda: made > 2)
        layer.away = False
        await wait_until_async(lambda: broker.connected)
        await broker.stop()


class TestStart:
    async def test_raises_what_making_the_layer_raises(self) -> None:
        def make_layer() -> Layer:
            raise LookupError("no such layer")

        with pytest.raises(LookupError):
            await Member(ChannelLayerBroker(make_layer, process_id="p")).start()

    async def test_ends_with_a_stop_that_comes_meanwhile(
        self, layer: Layer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dwsps_channels.broker.channel_layer.broker.STOP_TIMEOUT", 0.1)
        layer.open.clear()
        broker = make(layer, heartbeat=600.0)
        starting = asyncio.create_task(Member(broker).start())
        await wait_until_async(lambda: layer.calls > 1)  # it waits for its first heartbeat
        async with asyncio.timeout(WAIT_TIMEOUT):
            await broker.stop()
            await starting
        assert not broker.connected

    async def test_is_possible_once(self, pair: Pair) -> None:
        with pytest.raises(RuntimeError, match="once"):
            await pair.one.start()

    async def test_stop_leaves_the_group(self, layer: Layer, pair: Pair) -> None:
        await pair.one_broker.stop()
        await pair.other_broker.stop()
        assert layer.groups == {}
        assert not pair.one_broker.connected

    async def test_servers_with_groups_of_their_own_share_a_layer(
        self, layer: Layer, pair: Pair
    ) -> None:
        another = Member(broker := make(layer, group="dwsps.broker.another"))
        await another.start()
        await pair.one.publish(publication(1))
        await another.publish(publication(2))
        await pair.other.receives(1)
        await broker.stop()
        assert pair.other.numbers == [1]
        assert another.numbers == [2]
