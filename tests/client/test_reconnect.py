"""Reconnecting: subscriptions survive a connection, requests in flight do not."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from dwsps_channels.client import Client, ClientClosed, ConnectionLost, Refused, ServerError
from dwsps_channels.client.client import State
from tests.client.conftest import Connect
from tests.client.scripted import IGNORE, Frame, ScriptedServer, response
from tests.processes import wait_until_async


async def test_restarted_server_finds_its_subscriptions_again_before_open(
    scripted: ScriptedServer, connect: Connect
) -> None:
    seen: list[tuple[State, list[str]]] = []
    client = await connect(scripted, on_state=lambda state: seen.append((state, scripted.topics)))
    got: list[Any] = []
    await client.subscribe("a", lambda message: got.append(message.message))
    async with client.subscribe("b.c") as messages:
        await scripted.kill()
        await wait_until_async(lambda: client.state == "reconnecting")
        assert client.last_error is not None
        await scripted.start()
        await client.wait_open()
        await client.publish("a", 1)
        await scripted.deliver("b.c", 2)
        assert (await messages.get()) is not None
    await wait_until_async(lambda: got == [1])
    assert [state for state, _ in seen] == ["open", "reconnecting", "open"]
    assert seen[-1] == ("open", ["a", "b.c"])
    await client.close()
    assert seen[-1][0] == "closed"


async def test_open_waits_until_every_subscription_is_answered(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    await asyncio.gather(client.subscribe("a", print), client.subscribe("b", print))
    held = scripted.held = []
    scripted.cut()
    await wait_until_async(lambda: len(held) == 2)
    published = asyncio.create_task(client.publish("c", 1))
    await wait_until_async(lambda: len(held) == 3)
    await held[2]()
    await published  # on the wire already, and answered, with subscriptions still open
    await held[0]()
    assert client.state == "reconnecting"
    await held[1]()
    await client.wait_open()


async def test_subscribe_whose_ack_never_came_is_settled_by_the_next_connection(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    scripted.decide = lambda frame: IGNORE
    subscribing = asyncio.create_task(client.subscribe("a", print))
    await wait_until_async(lambda: scripted.frames)
    scripted.decide = lambda frame: None
    scripted.cut()
    await subscribing
    assert scripted.topics == ["a"]


async def test_unsubscribe_whose_ack_never_came_is_done(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    subscription = await client.subscribe("a", print)
    scripted.decide = lambda frame: IGNORE
    unsubscribing = asyncio.create_task(subscription.unsubscribe())
    await wait_until_async(lambda: scripted.sent("unsubscribe"))
    scripted.decide = lambda frame: None
    scripted.cut()
    await unsubscribing
    await client.publish("b", 1)
    assert scripted.topics == []


async def test_offline_publishes_wait_in_order_after_subscriptions(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    gone = await client.subscribe("gone", print)
    await scripted.kill()
    await wait_until_async(lambda: client.state == "reconnecting")
    scripted.frames.clear()
    await gone.unsubscribe()
    calls: list[Any] = [
        client.publish("a", 1),
        client.subscribe("a", print),
        client.publish("a", 2),
    ]
    waiting = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    await scripted.start()
    await asyncio.gather(*waiting)
    assert [(frame["type"], frame.get("message")) for frame in scripted.frames] == [
        ("subscribe", None),
        ("publish", 1),
        ("publish", 2),
    ]


async def test_subscription_refused_for_good_on_reconnecting_ends_with_the_error(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(scripted)
    await client.subscribe("a", print)
    async with client.subscribe("secret") as messages:
        refusal = {"code": "forbidden", "reason": "not any more"}
        scripted.decide = lambda frame: refusal if frame["topic"] == "secret" else None
        scripted.cut()
        with pytest.raises(ServerError, match="not any more"):
            await messages.get()
    await client.wait_open()
    assert (client.subscriptions, scripted.topics) == (["a"], ["a"])
    assert "a subscription could not be restored" in caplog.text


async def test_subscriptions_put_off_on_reconnecting_are_asked_for_again(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    topics = ["a", "b", "c", "d", "e", "f"]
    for topic in topics:
        await client.subscribe(topic, print)
    asked: list[str] = []

    def decide(frame: Frame) -> Frame | None:
        asked.append(frame["topic"])
        busy = {"code": "rate_limited", "reason": "slowly", "retryable": True}
        return None if len(asked) % 3 == 0 else busy

    scripted.decide = decide
    scripted.cut()
    await wait_until_async(lambda: client.state == "reconnecting")
    await client.wait_open()
    assert client.subscriptions == topics
    assert scripted.topics == topics


async def test_open_waits_for_a_subscription_that_the_server_cannot_take_for_now(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    for topic in ("a", "b"):
        await client.subscribe(topic, print)
    later = {"code": "unavailable", "reason": "later", "retryable": True}
    refusals = [later, later, later]
    scripted.decide = lambda frame: refusals.pop() if refusals and frame["topic"] == "a" else None
    scripted.cut()
    await wait_until_async(lambda: client.state == "reconnecting")
    await client.wait_open()
    assert (scripted.topics, refusals) == (["a", "b"], [])


class RateLimit:
    """Allows ``burst`` frames at once and one more each ``every`` seconds; counts those that go on for a burst beyond."""

    def __init__(self, burst: int, every: float) -> None:
        self.burst = burst
        self.every = every
        self.begin()
        self.refused = 0
        self.floods = 0

    def begin(self) -> None:
        """A connection is new."""
        self.tokens = float(self.burst)
        self.at = time.monotonic()
        self.in_a_row = 0

    def decide(self, frame: Frame) -> Frame | None:
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.at) / self.every)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            self.in_a_row = 0
            return None
        self.refused += 1
        self.in_a_row += 1
        self.floods += self.in_a_row == self.burst
        return {"code": "rate_limited", "reason": "slowly", "retryable": True}


async def test_open_waits_for_all_subscriptions_at_the_pace_that_the_server_allows(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, min_delay=0.05, max_delay=0.1)
    topics = sorted(f"topic{number}" for number in range(150))
    for topic in topics:
        await client.subscribe(topic, print)
    limit = RateLimit(50, 0.005)

    async def welcome(session: ServerConnection) -> None:
        limit.begin()

    scripted.welcome, scripted.decide = welcome, limit.decide
    began = time.monotonic()
    scripted.cut()
    await wait_until_async(lambda: client.state == "reconnecting")
    # What waits for the connection waits behind them.
    published = [asyncio.create_task(client.publish("topic1", number)) for number in range(3)]
    await client.wait_open()
    assert scripted.topics == topics
    await asyncio.wait(published)
    more = await asyncio.gather(*(client.subscribe(f"more{n}", print) for n in range(100)))
    assert len(scripted.topics) == 250
    # The server hears of each that ends, too, or it would go on sending.
    await asyncio.gather(*(subscription.unsubscribe() for subscription in more))
    assert scripted.topics == topics
    assert limit.floods == 0
    assert limit.refused < 200
    # None only if the machine is so slow that it keeps the pace by itself.
    assert limit.refused or time.monotonic() - began > 300 * limit.every


async def test_subscribing_again_goes_out_in_rounds(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    for number in range(16 + 24 + 36):
        await client.subscribe(f"topic{number}", print)
    scripted.frames.clear()
    held: list[Callable[[], Any]] = []
    scripted.held = held
    scripted.cut()
    for many in (16, 24, 36):
        await wait_until_async(partial(lambda many: len(held) == many, many))
        answers = held[:]
        held.clear()
        for answer in answers:
            await answer()
    await client.wait_open()
    assert len(scripted.frames) == 16 + 24 + 36


@pytest.mark.parametrize("code", [4001, 4003, 4099])
async def test_4000_to_4099_close_the_client_for_good(
    scripted: ScriptedServer, connect: Connect, code: int
) -> None:
    client = await connect(scripted)
    scripted.decide = lambda frame: IGNORE
    calls: list[Any] = [client.publish("a", 1), client.subscribe("b", print)]
    waiting = [asyncio.create_task(call) for call in calls]
    await wait_until_async(lambda: len(scripted.frames) == 2)
    # Some servers drop the reason from the close, so it comes in an error before.
    await scripted.broadcast({"type": "error", "code": "forbidden", "reason": "who are you"})
    await scripted.close(code)
    for call in waiting:
        with pytest.raises(ClientClosed, match=f"for good: {code} who are you"):
            await call
    assert (client.state, client.subscriptions) == ("closed", [])
    with pytest.raises(ClientClosed):
        await client.publish("a", 1)
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("code", [1000, 1011, 4100, 4199, 4300])
async def test_other_codes_bring_it_back_with_backoff(
    scripted: ScriptedServer, connect: Connect, code: int
) -> None:
    client = await connect(scripted, min_delay=1000, max_delay=1000)
    await scripted.close(code, "why")
    await wait_until_async(lambda: client.state == "reconnecting")
    assert str(client.last_error) == f"closed with {code}: why"
    assert len(scripted.requests) == 1


async def test_4200_to_4299_bring_it_back_at_once_but_not_again_and_again(
    scripted: ScriptedServer, connect: Connect
) -> None:
    async def send_away(session: ServerConnection) -> None:
        await session.close(4200, "going away")

    client = await connect(scripted, min_delay=1000, max_delay=1000)
    scripted.welcome = send_away
    await scripted.close(4200, "going away")
    await wait_until_async(lambda: len(scripted.requests) == 2)
    await wait_until_async(lambda: client.state == "reconnecting" and not scripted.sessions)
    # A delay below 1000 s, and not none: it is not back while a whole other client comes and goes.
    scripted.welcome = None
    other = await connect(scripted)
    await other.publish("a", 1)
    assert len(scripted.requests) == 3


async def test_refused_handshake_is_tried_again_and_says_why(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.answer = lambda request: response(HTTPStatus.FORBIDDEN)
    client = await connect(scripted, wait=False)
    publishing = asyncio.create_task(client.publish("a", 1))
    await wait_until_async(lambda: len(scripted.requests) >= 3)
    assert isinstance(client.last_error, Refused)
    assert client.last_error.status == 403
    assert caplog.text.count("refused the connection with HTTP 403") == 1  # not for each attempt
    scripted.answer = lambda request: None
    await publishing


async def test_connection_on_which_nothing_is_answered_is_replaced(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, timeout=2.0)
    await client.subscribe("a", print)
    scripted.decide = lambda frame: IGNORE
    publishing = asyncio.create_task(client.publish("a", 1))
    subscribing = asyncio.create_task(client.subscribe("b", print))
    await wait_until_async(lambda: client.last_error is not None)
    scripted.decide = lambda frame: None
    with pytest.raises(ConnectionLost, match="silent for 2 s"):
        await publishing
    await subscribing
    assert client.subscriptions == ["a", "b"]


async def test_token_is_asked_for_anew_for_each_connection(
    scripted: ScriptedServer, connect: Connect
) -> None:
    tokens = iter(["one", "two"])

    async def token() -> str:
        return next(tokens)

    client = await connect(scripted, token=token)
    scripted.cut()
    await wait_until_async(lambda: len(scripted.requests) == 2)
    await client.wait_open()
    assert [request.headers["Authorization"] for request in scripted.requests] == [
        "Bearer one",
        "Bearer two",
    ]


async def test_token_that_cannot_be_had_is_tried_again(
    scripted: ScriptedServer, connect: Connect
) -> None:
    answers: list[Any] = [KeyError("store"), "a token\r\nX-Evil: 1", None, "good"]

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    await connect(scripted, token=token)
    [request] = scripted.requests
    assert request.headers["Authorization"] == "Bearer good"


async def test_on_state_that_raises_is_logged(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def on_state(state: State) -> None:
        raise ValueError(state)

    client = await connect(scripted, on_state=on_state)
    await client.publish("a", 1)
    assert "on_state raised at 'open'" in caplog.text


@pytest.mark.parametrize("moment", ["connecting", "open", "reconnecting"])
async def test_close_ends_it_at_any_moment(scripted: ScriptedServer, moment: str) -> None:
    if moment == "connecting":
        scripted.answer = lambda request: response(HTTPStatus.SERVICE_UNAVAILABLE)
    async with Client(scripted.url, min_delay=100, max_delay=100) as client:
        if moment == "connecting":
            await asyncio.sleep(0)
        else:
            await client.wait_open()
        if moment == "reconnecting":
            scripted.cut()
            await wait_until_async(lambda: client.state == moment)
    assert client.state == "closed"
    await wait_until_async(lambda: not scripted.sessions)


async def test_task_that_waits_for_open_hears_of_the_end(scripted: ScriptedServer) -> None:
    async with Client(scripted.url) as client:
        waiting = asyncio.create_task(client.wait_open())
        await waiting
        await scripted.close(4001, "no")
        await wait_until_async(lambda: client.state == "closed")
        with pytest.raises(Exception, match="closed with 4001"):
            await client.wait_open()
