"""The script that keeps the log, and the reading of what is kept, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from dwsps_channels.broker.redis.connection import Connection
from dwsps_channels.broker.redis.hosts import async_pool
from dwsps_channels.broker.redis.layout import Layout
from dwsps_channels.broker.redis.loading import Search, load
from dwsps_channels.core.keys import DURABLE_KEYS
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention
from tests.broker.contract import publication
from tests.broker.redis.brokers import layout
from tests.processes import Redis

RUN = "run:replication"


class Script:
    """The operations of one process, one call at a time."""

    def __init__(self, connection: Connection, client: Any) -> None:
        self._connection = connection
        self.client = client
        self.layout: Layout = layout()
        self.epoch = ""
        self._number = 0

    async def join(self, *, process: str = "p", run: str = RUN, read: bytes = b"0-0") -> list[Any]:
        call = self.layout.join(process, run, "fresh", self.epoch, read)
        reply: list[Any] = await self._connection.run(call)
        return reply

    async def beat(self, *, process: str = "p") -> bytes:
        (what,) = await self._connection.run(self.layout.beat(process, RUN, self.epoch))
        return bytes(what)

    async def append(
        self,
        *publications: Publication,
        keys: list[str] | None = None,
        number: int | None = None,
        epoch: str = "",
    ) -> list[Any]:
        if number is None:
            self._number = number = self._number + 1
        keys = keys or [""] * len(publications)
        call = self.layout.append("p", number, 7, epoch, publications, keys)
        reply: list[Any] = await self._connection.run(call)
        return reply[:3]

    async def load(self, root: str | None = None, **search: Any) -> Log:
        _, epoch, offset, last = await self._connection.run(self.layout.join("", RUN, "", "", b""))
        conversation = load(
            self.layout,
            epoch.decode(),
            int(offset),
            last,
            Search(self.layout.tail, **search),
            root=root,
        )
        reply = None
        while True:
            try:
                command = conversation.send(reply)
            except StopIteration as done:
                log: Log = done.value
                return log
            reply = await self._connection.call(*command)

    async def set(self, **fields: object) -> None:
        """Change the state, as time would."""
        await self.client.hset(self.layout.state, mapping=fields)


@pytest.fixture
def redis(emptied: Redis) -> Redis:
    return emptied


@pytest.fixture
async def script(redis: Redis) -> AsyncIterator[Script]:
    connection, client = Connection(async_pool({"address": redis.url})), Client.from_url(redis.url)
    await connection.open()
    script = Script(connection, client)
    await script.join()
    yield script
    await connection.close()
    await client.aclose()


def numbered(log: Log) -> list[tuple[int, int]]:
    return [(offset, int(bytes(each.message))) for offset, each in log.publications]


class TestAppend:
    async def test_a_batch_takes_the_next_offsets(self, script: Script) -> None:
        assert await script.append(publication(1), publication(2)) == [b"ok", b"1", b""]
        assert await script.append(publication(3)) == [b"ok", b"3", b""]
        assert numbered(await script.load()) == [(1, 1), (2, 2), (3, 3)]

    async def test_a_batch_that_is_sent_again_is_appended_once(self, script: Script) -> None:
        first = await script.append(publication(1), publication(2), keys=["a", "a"], number=1)
        assert first == [b"ok", b"1", b"1:1"]
        again = await script.append(publication(1), publication(2), keys=["a", "a"], number=1)
        assert again == first
        assert numbered(await script.load()) == [(1, 1)]

    async def test_a_batch_that_is_sent_again_in_another_epoch_is_still_known(
        self, script: Script
    ) -> None:
        first = await script.append(publication(1), number=1, epoch="fresh")
        await script.set(epoch="another")
        assert await script.append(publication(1), number=1, epoch="fresh") == first
        assert await script.append(publication(2), number=2, epoch="fresh") == [b"lost"]

    async def test_without_a_log_nothing_is_appended(self, script: Script) -> None:
        await script.client.flushall()
        assert await script.append(publication(1)) == [b"lost"]
        assert await script.client.keys() == []

    async def test_publications_whose_key_is_known_take_no_offset(self, script: Script) -> None:
        await script.append(publication(1), keys=["a"])
        outcome = await script.append(
            *(publication(number) for number in (2, 3, 4, 5)), keys=["b", "a", "", "b"]
        )
        assert outcome == [b"ok", b"2", b"1:1,3:2"]
        assert numbered(await script.load()) == [(1, 1), (2, 2), (3, 4)]

    async def test_a_batch_in_which_every_key_is_known_leaves_no_entry(
        self, script: Script
    ) -> None:
        await script.append(publication(1), keys=["a"])
        assert await script.append(publication(2), keys=["a"]) == [b"ok", b"0", b"0:1"]
        assert await script.client.xlen(script.layout.log) == 1
        assert await script.append(publication(3)) == [b"ok", b"2", b""]


class TestKeys:
    async def pass_time(self, script: Script, minutes: int) -> None:
        seconds, _ = await script.client.time()
        await script.set(keys_at=(seconds - 60 * minutes) * 1000)

    async def test_a_key_is_known_for_five_minutes_and_forgotten_after_ten(
        self, script: Script
    ) -> None:
        await script.append(publication(1), keys=["a"])
        await self.pass_time(script, 6)
        assert await script.append(publication(2), keys=["b"]) == [b"ok", b"2", b""]
        assert await script.append(publication(3), keys=["a"]) == [b"ok", b"0", b"0:1"]
        await self.pass_time(script, 6)
        assert await script.append(publication(4), keys=["a"]) == [b"ok", b"3", b""]

    async def test_a_key_that_comes_again_after_an_hour_publishes_though_no_other_came_meanwhile(
        self, script: Script
    ) -> None:
        for number in (1, 2, 3):
            assert await script.append(publication(number), keys=["hourly"]) == [
                b"ok",
                b"%d" % number,
                b"",
            ]
            await self.pass_time(script, 60)

    async def flood(self, script: Script, prefix: str) -> None:
        """Append with further keys, as if there had been 49 000 before: with so many the older ones are forgotten."""
        await script.set(keys_n=49_000)
        keys = [f"{prefix}{number}" for number in range(1001)]
        last = int((await script.append(*[publication()] * len(keys), keys=keys))[1]) + 1000
        assert await script.append(publication(), keys=keys[-1:]) == [b"ok", b"0", b"0:%d" % last]

    async def test_at_most_a_hundred_thousand_are_known(self, script: Script) -> None:
        await script.append(publication(), keys=["first"])
        await self.flood(script, "a")
        assert await script.append(publication(), keys=["first"]) == [b"ok", b"0", b"0:1"]
        await self.flood(script, "b")
        assert await script.append(publication(), keys=["b0"]) == [b"ok", b"0", b"0:1003"]
        assert await script.append(publication(), keys=["first"]) == [b"ok", b"2004", b""]

    async def test_the_keys_of_durable_publishes_outlive_a_flood_of_others(
        self, script: Script
    ) -> None:
        durable = f"{DURABLE_KEYS}9d3f"
        await script.append(publication(1), keys=[durable])
        await script.append(publication(1), keys=["first"])
        for prefix in ("user:1:7:durable:a", "user:1:7:durable:b"):
            await self.flood(script, prefix)
        assert await script.append(publication(), keys=["first"]) == [b"ok", b"2005", b""]
        assert await script.append(publication(2), keys=[durable]) == [b"ok", b"0", b"0:1"]
        hours = 60 * 60 * 1000
        seconds, _ = await script.client.time()
        await script.set(durable_at=1000 * seconds - 25 * hours)
        assert await script.append(publication(2), keys=[f"{DURABLE_KEYS}another"])
        assert await script.append(publication(2), keys=[durable]) == [b"ok", b"0", b"0:1"]


CHAT = Retention(messages=3, bytes=100_000, seconds=3600)


class TestBounds:
    async def fill(self, script: Script, count: int) -> None:
        """Append so many publications, one by one."""
        for number in range(1, count + 1):
            await script.append(publication(number))

    @pytest.fixture
    def old(self, script: Script) -> Callable[[], Any]:
        """Makes all entries a minute old."""

        async def age() -> None:
            entries = await script.client.xrange(script.layout.log)
            await script.client.delete(script.layout.log)
            for id, fields in entries:
                fields[b"t"] = int(fields[b"t"]) - 60_000
                await script.client.xadd(script.layout.log, fields, id=id)

        return age

    @pytest.mark.parametrize(
        ("bounds", "floor"),
        [
            (Retention(messages=20), 30),
            (Retention(messages=100), 0),
            (Retention(seconds=59), 49),  # the newest is there as long as nothing follows it
            (Retention(seconds=120), 0),
        ],
    )
    async def test_a_beat_removes_what_is_over_the_bounds(
        self, script: Script, old: Callable[[], Any], bounds: Retention, floor: int
    ) -> None:
        script.epoch = "fresh"
        script.layout = layout(bounds=bounds)
        await self.fill(script, 50)
        await old()
        assert await script.beat() == b"ok"
        assert await script.client.xlen(script.layout.log) == 50 - floor
        log = await script.load()
        assert (log.offset, log.floor) == (50, 50 if bounds.seconds == 59 else floor)
        assert [offset for offset, _ in log.publications] == list(range(log.floor + 1, 51))

    async def test_what_is_new_stays_for_the_processes_that_have_yet_to_read_it(
        self, script: Script
    ) -> None:
        script.epoch = "fresh"
        script.layout = layout(bounds=Retention(messages=5))
        await self.fill(script, 50)
        await script.beat()
        assert await script.client.xlen(script.layout.log) == 50

    async def test_a_beat_removes_a_part_of_what_is_far_over_the_bounds(
        self, script: Script
    ) -> None:
        count, script.epoch = 16_000, "fresh"
        script.layout = layout(bounds=Retention(messages=100))
        seconds, _ = await script.client.time()
        minute_ago = (seconds - 60) * 1000
        fill = """
            for number = 1, ARGV[1] do
                redis.call('XADD', KEYS[1], number .. '-7', 'e', 'fresh', 'p', '', 's', 'p 1', 't', ARGV[2],
                    'n', 1, 'x', '', 'd', '[]')
            end
        """
        await script.client.eval(fill, 1, script.layout.log, count, minute_ago)
        await script.set(offset=count, last=f"{count}-7", count=count, bytes=2 * count)
        left = [count]
        while left[-1] > 100 and len(left) < 10:
            await script.beat()
            left.append(await script.client.xlen(script.layout.log))
        # Redis does nothing else in the time of one.
        removed = [before - after for before, after in pairwise(left)]
        assert left[-1] == 100
        assert 1000 < max(removed) <= 8000

    async def test_four_times_the_bytes_of_a_small_log_are_never_exceeded(
        self, script: Script
    ) -> None:
        script.layout = layout(bounds=Retention(bytes=10_000))
        for _ in range(100):
            await script.append(publication(b'"' + b"x" * 1000 + b'"'))
        assert 30 <= await script.client.xlen(script.layout.log) <= 40
        log = await script.load()
        assert log.floor == log.offset - len(log.publications)

    async def test_32_mib_more_than_the_bytes_of_a_large_log_are_never_exceeded(
        self, script: Script
    ) -> None:
        script.layout = layout(bounds=Retention(bytes=16 * 1024 * 1024))
        for _ in range(110):
            await script.append(publication(b'"' + b"x" * 512 * 1024 + b'"'))
        assert await script.client.xlen(script.layout.log) in (95, 96)

    async def test_what_is_too_old_is_not_loaded(
        self, script: Script, old: Callable[[], Any]
    ) -> None:
        script.layout = layout(bounds=Retention(seconds=30))
        await self.fill(script, 5)
        await old()
        await script.append(publication(6))
        log = await script.load()
        assert (log.offset, log.floor, numbered(log)) == (6, 5, [(6, 6)])

    @pytest.mark.parametrize(
        "tail", [Retention(messages=20), Retention(bytes=20 * 500), Retention(messages=20, bytes=1)]
    )
    async def test_a_process_loads_no_more_than_its_tail_takes(
        self, script: Script, tail: Retention
    ) -> None:
        script.layout = layout(tail=tail)
        await self.fill(script, 100)
        log = await script.load()
        assert log.offset == 100
        assert log.offset - log.floor == len(log.publications)
        assert len(log.publications) == 1 if tail.bytes == 1 else 15 <= len(log.publications) <= 25
        assert [offset for offset, _ in log.publications] == list(range(log.floor + 1, 101))

    async def test_kept_roots_are_loaded_whole_beyond_the_tail(self, script: Script) -> None:
        roots = {"chat": Retention(messages=50)}
        script.layout = layout(tail=Retention(messages=5), roots=roots)
        for number in range(1, 101):
            await script.append(publication(number, "chat" if number % 2 else "news"))
        log = await script.load()
        assert (log.floor, log.floors) == (95, {"chat": 0})
        assert [offset for offset, _ in log.publications] == [*range(1, 96, 2), *range(96, 101)]

    async def test_a_search_that_takes_too_long_says_how_far_it_came(self, script: Script) -> None:
        await self.fill(script, 50)
        log = await script.load(is_late=lambda: True)
        assert (log.offset, log.floor) == (50, 34)
        assert [offset for offset, _ in log.publications] == list(range(35, 51))

    async def test_an_entry_that_is_missing_is_a_gap(self, script: Script) -> None:
        await self.fill(script, 50)
        entries = await script.client.xrange(script.layout.log)
        await script.client.xdel(script.layout.log, entries[9][0])
        log = await script.load()
        assert (log.floor, len(log.publications)) == (10, 40)

    async def test_what_is_loaded_has_its_age(self, script: Script, old: Callable[[], Any]) -> None:
        script.layout = layout(roots={"chat": CHAT})
        await script.append(publication(1), publication(2))
        await old()
        await script.append(publication(3), publication(4, "chat"))
        ages = (await script.load()).ages
        assert [ages[offset] >= 60 for offset in (1, 2, 3, 4)] == [True, True, False, False]
        assert list((await script.load("chat")).ages) == [4]

    async def test_an_entry_that_cannot_be_read_is_a_gap(self, script: Script) -> None:
        await self.fill(script, 5)
        entries = await script.client.xrange(script.layout.log)
        await script.client.delete(script.layout.log)
        entries[2][1][b"d"] = b"garbled"
        for id, fields in entries:
            await script.client.xadd(script.layout.log, fields, id=id)
        log = await script.load()
        assert (log.offset, log.floor, numbered(log)) == (5, 3, [(4, 4), (5, 5)])


class TestRoots:
    @pytest.fixture(autouse=True)
    def roots(self, script: Script) -> None:
        script.epoch = "fresh"
        script.layout = layout(
            bounds=Retention(bytes=500), roots={"chat": CHAT, "chat.typing": None, "board": CHAT}
        )

    async def flood(self, script: Script) -> None:
        """Push everything else out of the log."""
        for _ in range(100):
            await script.append(publication(0, "noise"))

    async def test_what_is_kept_apart_is_not_pushed_out(self, script: Script) -> None:
        await script.append(publication(1, "chat.a"), publication(2), publication(3, "chat"))
        await script.append(publication(4, "chat.typing"), publication(5, "chats"))
        await self.flood(script)
        log = await script.load()
        assert log.floor > 5
        assert numbered(log)[:2] == [(1, 1), (3, 3)]
        assert numbered(log)[2][0] == log.floor + 1
        assert log.floors == {"board": 0, "chat": 0}

    async def test_it_has_bounds_of_its_own(self, script: Script) -> None:
        for number in range(1, 11):
            await script.append(publication(number, "chat"))
        await script.beat()
        await self.flood(script)
        log = await script.load()
        assert numbered(log)[:3] == [(8, 8), (9, 9), (10, 10)]
        assert log.floors == {"board": 0, "chat": 7}

    async def test_its_stream_is_read_alone(self, script: Script) -> None:
        await script.append(publication(1, "chat"), publication(2))
        log = await script.load(root="chat")
        assert (log.offset, log.floor, numbered(log)) == (2, 2, [(1, 1)])
        assert log.floors == {"chat": 0}

    async def test_keys_that_are_known_take_no_offset_there_either(self, script: Script) -> None:
        await script.append(publication(1, "chat"), keys=["a"])
        batch = [publication(number, "chat") for number in (2, 3, 4)]
        await script.append(publication(9), *batch, keys=["", "b", "a", "c"])
        log = await script.load(root="chat")
        assert numbered(log) == [(1, 1), (3, 2), (4, 4)]

    async def test_a_root_that_is_new_begins_when_it_is_configured(self, script: Script) -> None:
        await script.append(publication(1, "chat"), publication(2, "news"))
        roots = {"chat": CHAT, "chat.typing": None, "news": CHAT}
        script.layout = layout(bounds=Retention(bytes=500), roots=roots)
        await script.append(publication(3, "news"))
        await self.flood(script)
        log = await script.load()
        assert (log.floors["chat"], log.floors["news"]) == (0, 2)
        assert numbered(log)[:2] == [(1, 1), (3, 3)]

    async def test_a_root_that_takes_over_what_was_not_kept_begins_then(
        self, script: Script
    ) -> None:
        await script.append(publication(1, "chat"), publication(2, "chat.typing"))
        script.layout = layout(bounds=Retention(bytes=500), roots={"chat": CHAT})
        await script.append(publication(3, "chat.typing"))
        await self.flood(script)
        log = await script.load()
        assert log.floors == {"chat": 2}
        assert numbered(log)[0] == (3, 3)

    async def test_a_process_that_keeps_what_others_do_not_is_not_believed(
        self, script: Script
    ) -> None:
        await script.append(publication(1, "chat.typing"))
        await self.flood(script)
        script.layout = layout(bounds=Retention(bytes=500), roots={"chat": CHAT, "board": CHAT})
        log = await script.load()
        assert log.floors == {"board": log.floor, "chat": log.floor}

    async def test_a_root_that_takes_over_another_below_it_begins_then(
        self, script: Script
    ) -> None:
        script.layout = layout(bounds=Retention(bytes=500), roots={"a": CHAT, "a.b": CHAT})
        await script.append(publication(1, "a"), publication(2, "a.b"))
        script.layout = layout(bounds=Retention(bytes=500), roots={"a": CHAT})
        await script.append(publication(3, "a.b"))
        await self.flood(script)
        assert (await script.load()).floors == {"a": 2}

    async def test_a_process_that_does_not_know_the_root_is_not_believed(
        self, script: Script
    ) -> None:
        knows, ignorant = script.layout, layout(bounds=Retention(bytes=500))
        await script.append(publication(1, "chat"))
        script.layout = ignorant
        await script.append(publication(2, "chat"))
        script.layout = knows
        await script.append(publication(3, "chat"))
        await self.flood(script)
        log = await script.load()
        assert (log.floors["chat"], numbered(log)[0]) == (2, (3, 3))

    async def test_a_stream_that_was_evicted_is_a_gap(self, script: Script) -> None:
        await script.append(publication(1, "chat"))
        await self.flood(script)
        await script.client.delete(script.layout.stream("chat"))
        log = await script.load()
        assert log.floors["chat"] == log.floor
        await script.append(publication(2, "chat"))
        await self.flood(script)
        assert (await script.load()).floors["chat"] == 101


async def test_processes_that_are_gone_are_forgotten(script: Script) -> None:
    script.epoch = "fresh"
    await script.append(publication(1))
    await script.set(**{"p:gone": 1, "s:gone": "1 1 1 ", "purged": 1})
    await script.beat()
    fields = await script.client.hkeys(script.layout.state)
    assert b"p:p" in fields
    assert b"s:p" in fields
    assert not {b"p:gone", b"s:gone"} & set(fields)


async def test_many_processes_that_append_at_once_leave_no_hole(redis: Redis) -> None:
    async def append(name: int) -> None:
        connection = Connection(async_pool({"address": redis.url}))
        await connection.open()
        for number in range(50):
            await connection.run(
                layout().append(
                    str(name), number + 1, name, "", [publication(number)] * 3, [""] * 3
                )
            )
        await connection.close()

    client = Client.from_url(redis.url)
    connection = Connection(async_pool({"address": redis.url}))
    await connection.open()
    script = Script(connection, client)
    await script.join()
    await asyncio.gather(*map(append, range(5)))
    log = await script.load()
    assert [offset for offset, _ in log.publications] == list(range(1, 751))
    await connection.close()
    await client.aclose()
