"""The contract of a broker. The tests of an implementation subclass one of these and make the broker."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from msgspec import Raw

from dwsps_channels.core.broker import Broker, Repeated
from dwsps_channels.core.futures import Future
from dwsps_channels.core.log import Log
from dwsps_channels.core.notice import Disconnect, Verify, publication_of
from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.topics import NOTICES
from tests.processes import WAIT_TIMEOUT, wait_until_async

NOW = "2020-01-21T17:03:13.625Z"

PAYLOADS = [
    b"null",
    b"123456789012345678901234567890",
    b"1.0000000000000000000000001e-7",
    rb'"\u00e9\/\u2028\n\ud83d\ude00"',
    '"é ☃ 😀"'.encode(),
    b'{"b": 1 ,  "a":[ ], "b":2}',
    b'"' + b"x" * 65_000 + b'"',
]


def publication(message: bytes | int = 0, topic: str = "news.uk", **fields: Any) -> Publication:
    return Publication(
        topic, Raw(str(message).encode() if isinstance(message, int) else message), NOW, **fields
    )


class Member:
    """One process of a server, as far as a broker can tell."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.received: list[Publication] = []
        self.offsets: list[int | None] = []
        """Of what was received."""
        self.logs: list[Log] = []
        """The logs that ``begin`` was called with."""
        self.is_excluded = False
        self.misses = 0
        """The number of calls of ``miss``."""

    async def start(self) -> "Member":
        await self.broker.start(self)
        return self

    def begin(self, log: Log) -> None:
        self.is_excluded = False
        self.logs.append(log)

    def exclude(self) -> None:
        self.is_excluded = True

    def miss(self) -> None:
        assert not self.logs
        self.misses += 1

    def receive(self, publication: Publication, offset: int | None) -> None:
        assert bool(self.logs) is (offset is not None)  # a broker with a log begins it first
        self.received.append(publication)
        self.offsets.append(offset)

    @property
    def messages(self) -> list[bytes]:
        return [bytes(each.message) for each in self.received]

    @property
    def numbers(self) -> list[int]:
        """The messages, where they are numbers."""
        return [int(message) for message in self.messages]

    async def publish(self, publication: Publication, key: str = "") -> int | None:
        """Publish, and wait until the broker has it. Returns the offset."""
        return await answered(self.broker.publish(publication, key))

    async def receives(self, count: int, timeout: float = WAIT_TIMEOUT) -> None:
        """Wait for that many messages since the start. More would be found by what is asserted next."""
        await wait_until_async(
            lambda: len(self.received) >= count, timeout, f"received {count} messages"
        )


async def answered(answer: int | Future) -> int | None:
    """Wait for the answer of a broker."""
    if isinstance(answer, int):
        return answer
    offset: int | None = await answer
    return offset


MakeBroker = Callable[[], Broker]
Join = Callable[[], Awaitable[Member]]


class BrokerContract:
    """For every broker."""

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        """Makes brokers of one server, each as of a process of its own; not started."""
        raise NotImplementedError

    @pytest.fixture
    async def join(self, make_broker: MakeBroker) -> AsyncIterator[Join]:
        """Starts members, all of one server; they are stopped after the test."""
        members: list[Member] = []

        async def join() -> Member:
            members.append(Member(make_broker()))
            return await members[-1].start()

        yield join
        for member in members:
            await member.broker.stop()

    async def test_delivers_what_the_process_published_itself_before_it_answers(
        self, join: Join
    ) -> None:
        member = await join()
        for number in range(10):
            await member.publish(publication(number))
            assert member.numbers == list(range(number + 1))

    async def test_a_notice_has_its_place_among_the_publications(self, join: Join) -> None:
        member = await join()
        notice = publication_of(Verify("7"))
        for each in (publication(0), notice, publication(1)):
            await member.publish(each)
        assert [each.topic for each in member.received] == ["news.uk", NOTICES, "news.uk"]
        assert member.received[1] == notice

    async def test_the_answer_is_the_offset_that_it_was_delivered_with(self, join: Join) -> None:
        member = await join()
        assert [await member.publish(publication(number)) for number in range(10)] == member.offsets
        known = [offset for offset in member.offsets if offset is not None]
        assert known == sorted(set(known))
        assert len(known) in (0, 10)  # it gives offsets, or it does not

    async def test_takes_publications_that_nobody_waits_for(self, join: Join) -> None:
        member = await join()
        for number in range(100):
            member.broker.publish(publication(number))
        await member.receives(100)
        assert member.numbers == list(range(100))

    async def test_what_was_counted_is_shown(self, join: Join) -> None:
        member = await join()
        for number in range(10):
            await member.publish(publication(number))
        stats = member.broker.stats()
        assert (stats.connected, stats.waiting, stats.gaps, stats.missed) == (True, 0, 0, 0)

    async def test_a_second_stop_changes_nothing(self, join: Join) -> None:
        member = await join()
        await member.broker.stop()
        await member.broker.stop()

    async def test_refuses_publications_after_the_stop(self, join: Join) -> None:
        member = await join()
        await member.publish(publication(1))
        await member.broker.stop()
        with pytest.raises(Unavailable):
            await member.publish(publication(2))
        assert member.numbers == [1]

    async def test_stops_without_a_start(self, make_broker: MakeBroker) -> None:
        await make_broker().stop()


class LogContract(BrokerContract):
    """For every broker that has a log."""

    async def test_begins_the_log_with_the_start(self, join: Join) -> None:
        member = await join()
        [log] = member.logs
        assert re.fullmatch("[A-Za-z0-9_-]{1,32}", log.epoch)
        assert (log.offset, log.floor, list(log.publications)) == (0, 0, [])

    async def test_offsets_are_counted_from_one(self, join: Join) -> None:
        member = await join()
        assert [await member.publish(publication(number)) for number in range(5)] == [1, 2, 3, 4, 5]

    async def test_a_key_that_is_known_publishes_nothing(self, join: Join) -> None:
        member = await join()
        pairs = [(1, "a"), (2, "b"), (3, "a"), (4, ""), (5, "")]
        offsets = [await member.publish(publication(number), key) for number, key in pairs]
        assert offsets == [1, 2, 1, 3, 4]
        assert [isinstance(each, Repeated) for each in offsets] == [
            False,
            False,
            True,
            False,
            False,
        ]
        assert member.numbers == [1, 2, 4, 5]

    async def test_the_same_keys_at_once_publish_each_once(self, join: Join) -> None:
        member = await join()
        outcomes = [
            member.broker.publish(publication(number), str(number % 3)) for number in range(9)
        ]
        assert [await answered(each) for each in outcomes] == [1, 2, 3] * 3
        assert member.numbers == [0, 1, 2]


class SharedBrokerContract(BrokerContract):
    """For a broker that reaches other processes."""

    has_one_order = True
    """True if what the broker runs over has one order for all."""

    @pytest.fixture
    def sever(self) -> Callable[[], object]:
        """Takes away what the brokers run over."""
        raise NotImplementedError

    async def test_carries_a_publication_whole(self, join: Join) -> None:
        one, other = await join(), await join()
        sent = [
            publication(1),
            publication(
                b'{"a":1}', topic="☃.1.__proto__", publisher="paris", from_peer_server=True
            ),
        ]
        for each in sent:
            await one.publish(each)
        await other.receives(2)
        assert one.received == other.received == sent

    async def test_carries_each_message_byte_for_byte(self, join: Join) -> None:
        one, other = await join(), await join()
        for payload in PAYLOADS:
            await one.publish(publication(payload))
        await other.receives(len(PAYLOADS))
        assert other.messages == PAYLOADS

    async def test_every_process_gets_each_message_once_in_the_order_of_each_publisher(
        self, join: Join
    ) -> None:
        members = [await join() for _ in range(3)]
        each = 50

        async def publish_all(index: int) -> None:
            for number in range(each):
                await members[index].publish(publication(number, topic=f"by.{index}"))

        await asyncio.gather(*(publish_all(index) for index in range(3)))
        for member in members:
            await member.receives(3 * each)
            for publisher in range(3):
                got = [
                    int(bytes(p.message)) for p in member.received if p.topic == f"by.{publisher}"
                ]
                assert got == list(range(each))
        if self.has_one_order:
            assert members[0].received == members[1].received == members[2].received

    async def test_carries_a_burst_without_loss(self, join: Join) -> None:
        one, other = await join(), await join()
        count = 2000
        accepted = [one.broker.publish(publication(number)) for number in range(count)]
        for each in accepted:
            await answered(each)
        await other.receives(count)
        assert one.numbers == other.numbers == list(range(count))

    async def test_carries_both_ways_at_once(self, join: Join) -> None:
        one, other = await join(), await join()
        for number in range(100):
            one.broker.publish(publication(number, topic="one"))
            other.broker.publish(publication(number, topic="other"))
        for member in (one, other):
            await member.receives(200)
            for topic in ("one", "other"):
                numbers = [int(bytes(p.message)) for p in member.received if p.topic == topic]
                assert numbers == list(range(100))
        if self.has_one_order:
            assert one.received == other.received

    async def test_a_receiver_that_raises_misses_nothing_else(
        self, make_broker: MakeBroker, join: Join
    ) -> None:
        one, broker = await join(), make_broker()
        received: list[int] = []

        class Raising(Member):
            def receive(self, publication: Publication, offset: int | None) -> None:
                number = int(bytes(publication.message))
                if number % 2:
                    raise ValueError("odd")
                received.append(number)

        await broker.start(Raising(broker))
        try:
            for number in range(10):
                await one.publish(publication(number))
            await wait_until_async(lambda: len(received) == 5)
            assert received == [0, 2, 4, 6, 8]
        finally:
            await broker.stop()

    async def test_one_that_joins_late_gets_what_is_published_from_then_on(
        self, join: Join
    ) -> None:
        one = await join()
        await one.publish(publication(1))
        late = await join()
        await one.publish(publication(2))
        await late.receives(1)
        assert late.numbers == [2]

    async def test_stop_sends_what_was_accepted(self, join: Join) -> None:
        one, other = await join(), await join()
        accepted = [one.broker.publish(publication(number)) for number in range(500)]
        await one.broker.stop()
        for each in accepted:
            await answered(each)
        await other.receives(500)
        assert other.numbers == list(range(500))

    async def test_refuses_publications_before_the_start(self, make_broker: MakeBroker) -> None:
        member = Member(make_broker())
        with pytest.raises(Unavailable):
            await member.publish(publication())

    async def test_delivers_nothing_after_the_stop(self, join: Join) -> None:
        one, other, witness = await join(), await join(), await join()
        await other.broker.stop()
        await one.publish(publication())
        await witness.receives(1)
        assert other.received == []

    async def test_refuses_publications_while_the_others_are_gone(
        self, join: Join, sever: Callable[[], object]
    ) -> None:
        member = await join()
        await member.publish(publication(1))
        sever()
        with pytest.raises(Unavailable):
            await member.publish(publication(2))
        assert member.numbers == [1]  # and so nobody has it

    async def test_stops_while_the_others_are_gone(
        self, join: Join, sever: Callable[[], object]
    ) -> None:
        member = await join()
        sever()
        accepted = member.broker.publish(publication())
        async with asyncio.timeout(WAIT_TIMEOUT):
            await member.broker.stop()
            with pytest.raises(Unavailable):
                await answered(accepted)


class SharedLogContract(LogContract, SharedBrokerContract):
    """For a broker that reaches other processes, and has a log."""

    async def test_all_processes_have_the_same_offsets(self, join: Join) -> None:
        members = [await join() for _ in range(3)]
        for number in range(30):
            members[number % 3].broker.publish(publication(number))
        for member in members:
            await member.receives(30)
            assert member.offsets == list(range(1, 31))
        assert members[0].received == members[1].received == members[2].received
        assert len({member.logs[0].epoch for member in members}) == 1

    async def test_one_that_joins_late_is_given_what_is_kept(self, join: Join) -> None:
        one = await join()
        sent = [publication(number, topic=f"news.{number}") for number in range(5)]
        for each in sent:
            await one.publish(each)
        late = await join()
        [log] = late.logs
        assert (log.epoch, log.offset, log.floor) == (one.logs[0].epoch, 5, 0)
        assert list(log.publications) == list(enumerate(sent, 1))
        await one.publish(publication(5))
        await late.receives(1)
        assert late.offsets == [6]

    async def test_one_that_joins_late_is_given_the_notices_as_well(self, join: Join) -> None:
        one = await join()
        notice = publication_of(Disconnect(session="abc"))
        await one.publish(publication(0))
        await one.publish(notice)
        late = await join()
        assert list(late.logs[0].publications) == [(1, publication(0)), (2, notice)]

    async def test_what_is_loaded_at_the_start_and_what_comes_have_no_gap(self, join: Join) -> None:
        one = await join()
        outcomes = [one.broker.publish(publication(number)) for number in range(2000)]
        late = await join()
        for each in outcomes:
            await answered(each)
        loaded = [offset for offset, _ in late.logs[0].publications]
        await late.receives(2000 - len(loaded))
        assert [*loaded, *late.offsets] == list(range(1, 2001))

    async def test_a_key_is_known_to_all_processes(self, join: Join) -> None:
        one, other = await join(), await join()
        assert await one.publish(publication(1), "a") == 1
        assert await other.publish(publication(2), "a") == 1
        # And the publication that had it has been delivered where it is acknowledged.
        assert one.numbers == other.numbers == [1]

    async def test_the_same_keys_at_once_on_two_processes_publish_each_once(
        self, join: Join
    ) -> None:
        one, other = await join(), await join()
        outcomes = [
            member.broker.publish(publication(number), str(number))
            for number in range(50)
            for member in (one, other)
        ]
        offsets = [await answered(each) for each in outcomes]
        assert offsets[::2] == offsets[1::2]
        assert sorted(offsets[::2], key=int) == list(range(1, 51))  # type: ignore[arg-type]
        assert sorted(one.numbers) == sorted(other.numbers) == list(range(50))
