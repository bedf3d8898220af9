"""Handshakes that wait, and clients that do not."""

import asyncio
from typing import Any

import pytest
from django.db import DatabaseError

from dwsps_channels.connections.handshakes import (
    ClientGone,
    ReplayedReceive,
    Unanswered,
    while_connected,
)
from dwsps_channels.logs.throttle import INTERVAL
from dwsps_channels.threads.pools import Busy
from tests.clock import Clock

CONNECT = {"type": "websocket.connect"}


async def answer() -> str:
    return "answer"


class Asking:
    """Never answers, and knows whether it was given up."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.is_cancelled = False

    async def __call__(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise


class TestWhileConnected:
    async def test_it_gives_the_answer_and_takes_no_event(self) -> None:
        events: asyncio.Queue[str] = asyncio.Queue()
        assert await while_connected(events.get, answer()) == "answer"
        events.put_nowait("the first frame")
        assert await asyncio.wait_for(events.get(), 30) == "the first frame"

    async def test_it_raises_what_is_raised(self) -> None:
        async def fail() -> None:
            raise LookupError

        with pytest.raises(LookupError):
            await while_connected(asyncio.Queue[Any]().get, fail())

    @pytest.mark.parametrize("event", ["websocket.disconnect", "websocket.receive"])
    async def test_what_is_asked_for_a_client_that_goes_is_cancelled(self, event: str) -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()
        asking = Asking()
        waiting = asyncio.create_task(while_connected(events.get, asking()))
        await asking.began.wait()
        events.put_nowait({"type": event})
        with pytest.raises(ClientGone):
            await waiting
        assert asking.is_cancelled

    async def test_whoever_is_cancelled_leaves_nothing_behind(self) -> None:
        before = asyncio.all_tasks()
        asking = Asking()
        waiting = asyncio.create_task(while_connected(asyncio.Queue[Any]().get, asking()))
        await asking.began.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert asking.is_cancelled
        assert asyncio.all_tasks() == before


async def test_the_first_event_of_a_connected_receive_is_the_connect() -> None:
    events: asyncio.Queue[Any] = asyncio.Queue()
    events.put_nowait("next")
    receive = ReplayedReceive(CONNECT, events.get)
    assert await receive() == CONNECT
    assert await receive() == "next"
    assert receive.receive == events.get


class TestUnanswered:
    async def test_each_kind_of_reason_is_logged_once_a_minute(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = Clock()
        sent: list[Any] = []

        async def send(event: Any) -> None:
            sent.append(event)

        unanswered = Unanswered(clock)
        for error in (Busy("busy"), Busy("busy"), DatabaseError("away\nfor now")):
            await unanswered.reject({}, send, error)
        clock.now += INTERVAL
        await unanswered.reject({}, send, Busy("busy"))
        assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
            "busy; 1 since the start",
            "away for now; 3 since the start",
            "busy; 4 since the start",
        ]
        # Where the server knows no other status, a close means 403.
        assert [event["type"] for event in sent] == ["websocket.close"] * 4
