"""Threads for what may block, and what becomes of those who wait for one."""

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core import mail
from django.db import connections
from django.db.utils import ConnectionHandler

from dwsps_channels.threads import database
from dwsps_channels.threads.pools import Busy, Threads, in_background, look_up
from tests.connections.transports.contract import turns
from tests.processes import wait_until_async

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")


class Blocker:
    """A call that lasts until the test lets it go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.may_end.wait(30)
        return "ended"

    async def has_begun(self) -> None:
        await wait_until_async(self.began.is_set)


@pytest.fixture
def blocker() -> Iterator[Blocker]:
    call = Blocker()
    yield call
    call.may_end.set()


class TestThreads:
    async def test_so_many_calls_run_at_once(self) -> None:
        threads = Threads("test", 3)
        together = threading.Barrier(3)
        calls = [threads.run(lambda: together.wait(30)) for _ in range(3)]
        assert sorted(await asyncio.gather(*calls)) == [0, 1, 2]

    async def test_the_others_wait_in_their_order(self, blocker: Blocker) -> None:
        threads = Threads("test", 1)
        ran: list[int] = []
        first = asyncio.create_task(threads.run(blocker))
        await blocker.has_begun()
        others = [asyncio.create_task(threads.run(partial(ran.append, n))) for n in range(20)]
        await asyncio.sleep(0)
        assert ran == []
        blocker.may_end.set()
        assert await first == "ended"
        await asyncio.gather(*others)
        assert ran == list(range(20))

    async def test_what_is_cancelled_before_it_begins_is_not_made(self, blocker: Blocker) -> None:
        threads = Threads("test", 1)
        ran: list[str] = []
        first = asyncio.create_task(threads.run(blocker))
        await blocker.has_begun()
        given_up = asyncio.create_task(threads.run(lambda: ran.append("given up")))
        kept = asyncio.create_task(threads.run(lambda: ran.append("kept")))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up  # at once: the first one still runs
        assert not first.done()
        await turns()
        blocker.may_end.set()
        await kept
        assert ran == ["kept"]

    async def test_who_waits_for_too_long_is_told_that_all_are_busy(self, blocker: Blocker) -> None:
        threads = Threads("test", 1)
        first = asyncio.create_task(threads.run(blocker))
        await blocker.has_begun()
        ran: list[str] = []
        with pytest.raises(Busy, match=r"no thread was free for 0\.01 s"):
            await threads.run(lambda: ran.append("late"), max_wait=0.01)
        await turns()  # the thread learns of it in the loop's next one
        blocker.may_end.set()
        await first
        assert await threads.run(lambda: "next") == "next"
        assert ran == []

    async def test_those_that_gave_up_do_not_pile_up(self, blocker: Blocker) -> None:
        threads = Threads("test", 1)
        first = asyncio.create_task(threads.run(blocker))
        await blocker.has_begun()
        given_up: list[weakref.ref[Blocker]] = []
        for _ in range(3):
            call = Blocker()
            given_up.append(weakref.ref(call))
            with pytest.raises(Busy):
                await threads.run(call, max_wait=0.01)
            del call
            await turns()
        waiting = asyncio.create_task(threads.run(lambda: "next"))
        await turns()
        gc.collect()
        assert [call() for call in given_up] == [None] * len(given_up)
        blocker.may_end.set()
        assert await first == "ended"
        assert await waiting == "next"

    async def test_what_has_begun_may_take_its_time(self, blocker: Blocker) -> None:
        loop = asyncio.get_running_loop()
        max_wait = 2.0  # on a busy machine a thread begins late
        limit = loop.time() + max_wait
        call = asyncio.create_task(Threads("test", 1).run(blocker, max_wait=max_wait))
        await blocker.has_begun()
        await wait_until_async(lambda: loop.time() > limit)
        blocker.may_end.set()
        assert await call == "ended"

    async def test_what_a_call_raises_is_the_callers(self) -> None:
        threads = Threads("test", 1)
        for error in (LookupError, TimeoutError):

            def fail(error: type[Exception] = error) -> None:
                raise error

            with pytest.raises(error):
                await threads.run(fail, max_wait=30)
        assert await threads.run(lambda: 1) == 1

    async def test_async_to_sync_comes_back_to_the_callers_loop(self) -> None:
        async def where() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        found = await Threads("test", 1).run(lambda: async_to_sync(where)())
        assert found is asyncio.get_running_loop()

    async def test_context_variables_are_the_callers(self) -> None:
        variable.set(7)
        assert await Threads("test", 1).run(variable.get) == 7

    async def test_what_waits_can_be_dropped(self, blocker: Blocker) -> None:
        threads = Threads("test", 1)
        first = asyncio.create_task(threads.run(blocker))
        await blocker.has_begun()
        waiting = asyncio.create_task(threads.run(lambda: None))
        await asyncio.sleep(0)
        threads.drop_waiting()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        blocker.may_end.set()
        assert await first == "ended"


class TestConnections:
    @pytest.fixture
    def handler(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConnectionHandler:
        """Connections to a file, since a database in memory is never closed; cared for as in a server."""
        settings = connections["default"].settings_dict | {"NAME": str(tmp_path / "db"), "TEST": {}}
        handler = ConnectionHandler({"default": settings})
        monkeypatch.setattr(database, "connections", handler)
        monkeypatch.setattr("django.db.connections", handler)
        monkeypatch.setattr(database, "is_under_test", lambda: False)
        return handler

    @pytest.fixture
    def query(self, handler: ConnectionHandler) -> Iterator[Callable[[], object]]:
        def query() -> object:
            with handler["default"].cursor() as cursor:
                cursor.execute("SELECT 1")
            opened.append(handler["default"].connection)
            return opened[-1]

        opened: list[Any] = []
        yield query
        # A thread that lingers would look for it in ``connections``, which is another again.
        for each in opened:
            each.close()

    @pytest.mark.django_db
    async def test_one_is_kept_while_calls_wait_and_closed_after_the_last(
        self,
        handler: ConnectionHandler,
        query: Callable[[], object],
        blocker: Blocker,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # A look at the connection is a call as well.
        monkeypatch.setattr("dwsps_channels.threads.pools.LINGER", 0.0)
        threads = Threads("test", 1)
        first = asyncio.create_task(threads.run(blocker))
        await blocker.has_begun()
        calls = [asyncio.create_task(threads.run(query)) for _ in range(5)]
        await asyncio.sleep(0)
        blocker.may_end.set()
        await first
        assert len({id(used) for used in await asyncio.gather(*calls)}) == 1

        async def is_closed() -> bool:
            return await threads.run(lambda: handler["default"].connection is None)

        await wait_until_async(is_closed)

    @pytest.mark.django_db
    async def test_one_is_kept_for_calls_that_follow_answers(
        self, query: Callable[[], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dwsps_channels.threads.pools.LINGER", 2.0)
        threads = Threads("test", 8)
        assert len({id(await threads.run(query)) for _ in range(20)}) <= 8

    @pytest.mark.django_db
    async def test_one_that_failed_is_closed_at_once(
        self, handler: ConnectionHandler, query: Callable[[], object], blocker: Blocker
    ) -> None:
        def spoil() -> object:
            used = query()
            handler["default"].errors_occurred = True
            return used

        threads = Threads("test", 1)
        first = asyncio.create_task(threads.run(blocker))
        await blocker.has_begun()
        spoiled = asyncio.create_task(threads.run(spoil))
        after = asyncio.create_task(threads.run(query))
        await asyncio.sleep(0)
        blocker.may_end.set()
        await first
        assert await spoiled is not await after


class TestInTests:
    async def test_look_ups_stay_in_the_thread_of_sync_to_async(self) -> None:
        """It is where a test's transaction is."""

        expected = await sync_to_async(threading.current_thread)()
        assert await look_up(threading.current_thread) is expected

    async def test_so_do_writes_that_nobody_waits_for(self) -> None:
        expected = await sync_to_async(threading.current_thread)()
        assert await in_background(threading.current_thread) is expected

    async def test_mail_that_goes_to_an_outbox_is_no_sign_of_a_test(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A project may send mail there, and its look-ups would all be in one thread."""
        assert mail.outbox == []
        monkeypatch.delattr("django.test.utils._TestState.saved_data")
        shared = await sync_to_async(threading.current_thread)()
        assert await look_up(threading.current_thread) is not shared


async def test_a_write_that_hangs_delays_neither_look_ups_nor_the_project(
    blocker: Blocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("django.test.utils._TestState.saved_data")
    writing = asyncio.create_task(in_background(blocker))
    await blocker.has_begun()
    assert await look_up(lambda: "looked up") == "looked up"
    assert await sync_to_async(lambda: "the project's")() == "the project's"
    blocker.may_end.set()
    assert await writing == "ended"
