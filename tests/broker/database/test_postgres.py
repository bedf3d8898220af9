"""PostgreSQL and its connections fail under the broker."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import connections

from dwsps_channels.broker.database import broker as broker_module
from dwsps_channels.broker.database.connection import prepare, writing
from dwsps_channels.broker.database.rows import decode
from dwsps_channels.models import LogEntry
from dwsps_channels.protocol.errors import Unavailable
from tests.broker.contract import Member, publication
from tests.broker.database.databases import ALIAS, broker, database_at
from tests.broker.database.queries import in_thread
from tests.processes import HOST, Postgres, wait_until_async

pytestmark = pytest.mark.processes


class Line:
    """A TCP proxy to PostgreSQL that can break in the middle of a commit."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = 0
        self.breaks: str = ""
        """``"before"``: the next COMMIT does not arrive; ``"after"``: its reply does not."""
        self.is_open = True
        self.flows = asyncio.Event()
        """Clear it to keep what is sent to PostgreSQL."""
        self.flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer: asyncio.StreamWriter | None = None
        with suppress(OSError):
            if self.is_open:
                far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
                back = asyncio.create_task(self._carry(far_reader, writer))
                while data := await reader.read(65536):
                    await self.flows.wait()
                    if self.breaks and b"COMMIT" in data:
                        breaks, self.breaks = self.breaks, ""
                        if breaks == "after":
                            back.cancel()
                            await asyncio.wait([back])
                            far_writer.write(data)
                            await far_reader.read(65536)
                        break
                    far_writer.write(data)
                back.cancel()
        for each in (writer, far_writer):
            if each is not None:
                each.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()


@pytest.fixture
def postgres_using(postgres: Postgres, django_db_blocker: Any) -> Iterator[str]:
    """The alias of a database on PostgreSQL."""
    with django_db_blocker.unblock(), database_at(postgres.url) as alias:
        yield alias


@pytest.fixture
async def line(postgres: Postgres, postgres_using: str) -> AsyncIterator[Line]:
    """Between the broker and PostgreSQL."""
    line = Line(postgres.port)
    server = await line.start()
    connections.settings[ALIAS]["PORT"] = line.port
    yield line
    server.close()


@pytest.fixture
async def member(line: Line) -> AsyncIterator[Member]:
    member = Member(broker(ALIAS))
    await member.start()
    yield member
    await member.broker.stop()


async def in_log() -> list[int]:
    rows = LogEntry.objects.using(ALIAS).order_by("offset")
    found: list[int] = await in_thread(lambda: list(rows.values_list("offset", flat=True)))
    return found


@pytest.mark.parametrize("breaks", ["before", "after"])
async def test_a_commit_that_breaks_is_settled_once_the_database_is_back(
    member: Member, line: Line, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "OUTCOME_TIMEOUT", 60.0)
    await member.publish(publication(1))
    line.breaks = breaks
    outcomes = [member.broker.publish(publication(number), f"{number}") for number in (2, 3)]
    assert [await each for each in outcomes if not isinstance(each, int)] == [2, 3]
    assert await member.publish(publication(4), "2") == 2
    assert await member.publish(publication(5)) == 4
    assert (member.numbers, len(member.logs)) == ([1, 2, 3, 5], 1)
    assert await in_log() == [1, 2, 3, 4]


@pytest.mark.parametrize("breaks", ["before", "after"])
async def test_a_commit_that_cannot_be_settled_in_time_has_an_unknown_outcome(
    member: Member, line: Line, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "OUTCOME_TIMEOUT", 0.3)
    line.breaks = breaks
    line.is_open = False
    with pytest.raises(Unavailable, match="it is not known if the message was published"):
        await member.publish(publication(1))
    assert member.numbers == []

    line.is_open = True
    await wait_until_async(lambda: member.broker.stats().connected)

    # It was not tried again; but what the log has is delivered.
    expected = [1] if breaks == "after" else []
    assert member.numbers == expected
    assert await member.publish(publication(2)) == len(expected) + 1
    assert member.broker.stats().waiting == 0
    assert len(member.logs) == 1


async def test_a_database_that_does_not_answer_keeps_no_publisher_waiting(
    member: Member,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await member.publish(publication(1))
    line.flows.clear()
    with monkeypatch.context() as impatient:
        impatient.setattr(broker_module, "ANSWER_TIMEOUT", 0.3)
        with pytest.raises(Unavailable, match="it is not known if the message was published"):
            await member.publish(publication(2))
    with pytest.raises(Unavailable, match="cannot publish for now"):
        await member.publish(publication(3))
    assert "it has not answered for 0.3 s" in caplog.text

    line.flows.set()

    # It was on its way, and the log has it.
    await wait_until_async(lambda: member.broker.stats().connected)
    assert await member.publish(publication(4)) == 3
    assert (member.numbers, len(member.logs)) == ([1, 2, 4], 1)


async def test_what_the_log_needs_holds_for_its_transactions_alone(postgres_using: str) -> None:
    """A pool, or a pgbouncer, gives the session to others afterwards."""
    options = connections.settings[ALIAS].setdefault("OPTIONS", {})
    options["options"] = "-c synchronous_commit=off"

    def settings() -> list[str]:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('synchronous_commit'), current_setting('lock_timeout')"
            )
            return list(cursor.fetchone())

    def look() -> tuple[list[str], list[str]]:
        prepare(ALIAS)
        with writing(ALIAS):
            within = settings()
        return within, settings()

    assert await in_thread(look) == (["on", "5s"], ["off", "0"])


async def test_what_was_acknowledged_survives_a_database_that_crashes(
    postgres: Postgres, postgres_using: str
) -> None:
    member = await Member(broker(postgres_using)).start()
    accepted: dict[int, int] = {}
    refused: set[int] = set()
    unknown: set[int] = set()
    numbers = iter(range(10**6))
    stopping = False

    async def publish_one() -> None:
        number = next(numbers)
        try:
            offset = await member.publish(publication(number))
        except Unavailable as error:
            (unknown if "not known" in error.problem else refused).add(number)
            await asyncio.sleep(0.01)
        else:
            assert offset is not None
            accepted[number] = offset

    async def publish_all() -> None:
        while not stopping:
            await publish_one()

    publishers = [asyncio.create_task(publish_all()) for _ in range(8)]
    for _ in range(3):
        before = len(accepted)
        await wait_until_async(lambda before=before: len(accepted) > before + 50, 30)  # type: ignore[misc]
        postgres.signal(signal.SIGQUIT)  # ends without a checkpoint, as if it had crashed
        await asyncio.to_thread(postgres.wait)
        await publish_one()
        postgres.start()
    before = len(accepted)
    await wait_until_async(lambda: len(accepted) > before + 50, 30)
    stopping = True
    await asyncio.gather(*publishers)
    await member.broker.stop()

    rows = LogEntry.objects.using(ALIAS).order_by("offset")
    found = await in_thread(lambda: list(rows.values_list("offset", "data")))
    log = {int(bytes(decode(data).message)): offset for offset, data in found}
    assert len(log) == len(found)  # nothing is there twice
    assert accepted.items() <= log.items()
    assert log.keys() - accepted.keys() <= unknown
    assert not refused & log.keys()
    assert len(refused | unknown) >= 3  # it was away
    # Everything was delivered, once, in order; the epoch is the first.
    assert member.offsets == [offset for offset, _ in found]
    assert len(member.logs) == 1
