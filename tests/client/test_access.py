"""Tokens, grants and ended subscriptions: what tests/conformance/access.json leaves to the Python client."""

import asyncio
import sys
from collections.abc import Iterator
from http import HTTPStatus
from itertools import count
from typing import Any

import pytest

from dwsps_channels.client import (
    BlockingClient,
    CallError,
    Client,
    ConnectionClosed,
    InvalidCall,
    NoGrant,
    NoToken,
    Refused,
    ServerError,
)
from dwsps_channels.client.exchange import Exchange
from tests.client.conftest import Connect
from tests.client.scripted import NOW, Frame, ScriptedServer, response
from tests.processes import ROOT, wait_until, wait_until_async

DELIVERY: Frame = {"type": "publish", "timestamp": NOW, "topic": "news", "context": "news"}
ENDED: Frame = {"type": "unsubscribed", "timestamp": NOW, "code": "forbidden", "reason": "no more"}


def numbered(word: str) -> Iterator[str]:
    return (f"{word}{number}" for number in count(1))


async def expire(server: ScriptedServer, seconds: int) -> None:
    await server.broadcast({"type": "expiring", "timestamp": NOW, "expiresIn": seconds})


# Tokens


async def test_token_of_the_handshake_is_renewed_by_a_frame(
    scripted: ScriptedServer, connect: Connect
) -> None:
    tokens = numbered("t")
    client = await connect(scripted, token=lambda: next(tokens))
    await expire(scripted, 0)
    await wait_until_async(lambda: scripted.sent("authenticate"))
    await expire(scripted, 0)
    await wait_until_async(lambda: len(scripted.sent("authenticate")) == 2)
    [request] = scripted.requests
    assert request.headers["Authorization"] == "Bearer t1"
    assert [frame["token"] for frame in scripted.sent("authenticate")] == ["t2", "t3"]
    assert client.state == "open"


async def test_token_in_a_frame_is_not_in_the_handshake(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, token="t1", token_in="frame")
    await client.publish("a", 1)
    [request] = scripted.requests
    assert "Authorization" not in request.headers
    assert [frame["type"] for frame in scripted.frames] == ["authenticate", "publish"]


@pytest.mark.parametrize("token_in", ["header", "frame"])
async def test_empty_token_stands_for_none(
    scripted: ScriptedServer, connect: Connect, token_in: str
) -> None:
    client = await connect(scripted, token=lambda: "", token_in=token_in)
    await client.publish("a", 1)
    [request] = scripted.requests
    assert "Authorization" not in request.headers
    assert scripted.sent("authenticate") == []


async def test_nothing_else_is_sent_before_the_token_is_accepted(
    scripted: ScriptedServer, connect: Connect
) -> None:
    scripted.held = []
    client = await connect(scripted, token="t1", token_in="frame", wait=False)
    calls = [
        asyncio.create_task(client.subscribe("a", print)),
        asyncio.create_task(client.publish("b", 1)),
    ]
    await wait_until_async(lambda: scripted.held)
    await scripted.broadcast({"type": "reset", "timestamp": NOW, "cursor": "e1:1"})
    await wait_until_async(lambda: client.cursor == "e1:1")  # a round of the client
    assert [frame["type"] for frame in scripted.frames] == ["authenticate"]
    assert not scripted.topics
    held, scripted.held = scripted.held, None
    for acknowledge in held:
        await acknowledge()
    await asyncio.gather(*calls)
    assert client.state == "open"


async def test_token_that_the_server_postpones_is_sent_again(
    scripted: ScriptedServer, connect: Connect
) -> None:
    def decide(frame: Frame) -> Frame | None:
        if len(scripted.sent("authenticate")) < 3:
            return {"code": "unavailable", "reason": "the database is down", "retryable": True}
        return None

    scripted.decide = decide
    await connect(scripted, token="t1", token_in="frame")
    assert [frame["token"] for frame in scripted.frames] == ["t1", "t1", "t1"]
    assert len(scripted.requests) == 1


async def test_renewal_waits_for_half_of_the_life_that_the_token_has(
    scripted: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await connect(scripted, token=lambda: "t1")
    authentication, delays = client._authentication, list[float]()

    async def renew(exchange: Exchange, delay: float) -> None:
        delays.append(delay)
        authentication._note_authenticated()

    monkeypatch.setattr(authentication, "_renew", renew)
    await expire(scripted, 1000)
    await wait_until_async(lambda: delays)
    authentication._authenticated_at -= 3600
    await expire(scripted, 60)
    await wait_until_async(lambda: len(delays) == 2)
    assert 400 < delays[0] <= 500
    assert delays[1] == 0


async def test_end_that_is_announced_right_behind_the_ack_is_heeded(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, token=lambda: "t")
    held = scripted.held = []
    await expire(scripted, 0)
    for _ in range(3):
        await wait_until_async(lambda: held)
        await held.pop()()
        await expire(scripted, 0)
    await wait_until_async(lambda: len(scripted.sent("authenticate")) == 4)
    assert client.state == "open"


async def test_one_renewal_at_a_time(scripted: ScriptedServer, connect: Connect) -> None:
    asked, answer = 0, asyncio.Event()

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked > 1:
            await answer.wait()
        return "t"

    client = await connect(scripted, token=token)
    for _ in range(10):
        await expire(scripted, 0)
    await client.publish("a", 1)
    assert asked == 2
    answer.set()
    await wait_until_async(lambda: scripted.sent("authenticate"))


async def test_renewal_ends_with_its_connection(scripted: ScriptedServer, connect: Connect) -> None:
    asked = asyncio.Event()
    tokens = numbered("t")

    async def token() -> str:
        text = next(tokens)
        if text == "t2":
            asked.set()
            await asyncio.Event().wait()
        return text

    client = await connect(scripted, token=token)
    await expire(scripted, 0)
    await asked.wait()
    scripted.cut()
    await wait_until_async(lambda: len(scripted.requests) == 2)
    await client.wait_open()
    assert scripted.requests[1].headers["Authorization"] == "Bearer t3"
    assert scripted.sent("authenticate") == []


async def test_function_that_gives_no_token_in_time(
    scripted: ScriptedServer, connect: Connect
) -> None:
    async def token() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    client = await connect(scripted, token=token, timeout=0.05, wait=False)
    await wait_until_async(lambda: client.last_error)
    assert isinstance(client.last_error, NoToken)
    assert "did not answer within 0.05 s" in str(client.last_error)
    assert scripted.requests == []


async def test_user_that_was_refused_reads_why(scripted: ScriptedServer, connect: Connect) -> None:
    scripted.decide = lambda frame: {"code": "unauthorized", "reason": "the token has expired"}
    client = await connect(scripted, token="t1", token_in="frame", wait=False)
    with pytest.raises(ConnectionClosed) as caught:
        await client.wait_open()
    assert (caught.value.code, "the token has expired" in caught.value.reason) == (4001, True)
    assert client.state == "closed"


async def test_another_token_follows_4001_once_until_a_connection_has_held(
    scripted: ScriptedServer, connect: Connect
) -> None:
    tokens = numbered("t")
    client = await connect(scripted, token=lambda: next(tokens))
    await scripted.close(4001, "the session has ended")
    await wait_until_async(lambda: len(scripted.requests) == 2)
    await client.wait_open()
    assert scripted.requests[1].headers["Authorization"] == "Bearer t2"
    client._backoff._opened_at = client._backoff._clock() - 10
    await scripted.close(4001, "the session has ended")
    await wait_until_async(lambda: len(scripted.requests) == 3)
    await client.wait_open()
    await scripted.close(4001, "the session has ended")
    await wait_until_async(lambda: client.state == "closed")
    assert len(scripted.requests) == 3


async def test_handshake_that_is_refused_after_4001_is_tried_again(
    scripted: ScriptedServer, connect: Connect
) -> None:
    tokens = numbered("t")
    client = await connect(scripted, token=lambda: next(tokens))
    scripted.answer = lambda request: response(HTTPStatus.FORBIDDEN)
    await scripted.close(4001)
    await wait_until_async(lambda: len(scripted.requests) >= 4)
    assert isinstance(client.last_error, Refused)
    scripted.answer = lambda request: None
    await client.wait_open()


def test_unknown_place_of_a_token() -> None:
    with pytest.raises(ValueError, match="token_in is 'header' or 'frame'"):
        Client("ws://a/", token="t", token_in="cookie")  # type: ignore[arg-type]


# Grants


@pytest.mark.parametrize("grant", [7, "x" * 2049, "\ud800", b"g"])
async def test_grant_that_can_be_none(
    scripted: ScriptedServer, connect: Connect, grant: Any
) -> None:
    client = await connect(scripted)
    with pytest.raises(InvalidCall, match="a grant is a text"):
        client.subscribe("a", grant=grant)
    with pytest.raises(NoGrant):
        await client.subscribe("a", print, grant=lambda: grant)
    assert scripted.frames == []
    assert client.subscriptions == []


async def test_error_of_a_grant_function_is_the_cause(
    scripted: ScriptedServer, connect: Connect
) -> None:
    async def grant() -> str:
        raise LookupError("order 42")

    client = await connect(scripted)
    with pytest.raises(NoGrant) as caught:
        async with client.subscribe("orders.42", grant=grant):
            pass
    assert (caught.value.code, caught.value.retryable) == ("no_grant", True)
    assert isinstance(caught.value.__cause__, LookupError)


async def hanging_grant() -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def test_grant_function_that_hangs_holds_up_nobody_else(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    waiting = asyncio.create_task(client.subscribe("orders.42", print, grant=hanging_grant))
    await client.subscribe("news", print)
    await client.publish("news", 1)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_grant_function_that_hangs_is_given_up(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, timeout=0.1)
    with pytest.raises(NoGrant, match="TimeoutError"):
        await client.subscribe("orders.42", print, grant=hanging_grant)


async def test_subscription_that_is_dropped_while_its_grant_is_asked_for_is_not_sent(
    scripted: ScriptedServer, connect: Connect
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def grant() -> str:
        asked.set()
        await answer.wait()
        return "g1"

    client = await connect(scripted)
    waiting = asyncio.create_task(client.subscribe("orders.42", print, grant=grant))
    await asked.wait()
    await client.unsubscribe("orders.42")
    answer.set()
    with pytest.raises(CallError, match="cancelled"):
        await waiting
    await client.publish("a", 1)
    assert [frame["type"] for frame in scripted.frames] == ["publish"]


async def test_subscriptions_with_one_grant_share_a_subscribe(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, wait=False)
    grants = ["g1", "g1", "g2", None]
    await asyncio.gather(*(client.subscribe("orders.42", print, grant=grant) for grant in grants))
    # Without one it brings the topic's, which is the one that was accepted last.
    assert [frame.get("grant") for frame in scripted.frames] == ["g1", "g2", "g2"]


async def test_grant_that_is_refused_does_not_replace_the_one_that_was_accepted(
    scripted: ScriptedServer, connect: Connect
) -> None:
    def decide(frame: Frame) -> Frame | None:
        return {"code": "forbidden"} if frame.get("grant") == "forged" else None

    scripted.decide = decide
    client = await connect(scripted)
    await client.subscribe("orders.42", print, grant="g1")
    with pytest.raises(ServerError):
        await client.subscribe("orders.42", print, grant="forged")
    scripted.cut()
    await wait_until_async(lambda: len(scripted.sent("subscribe")) == 3)
    assert scripted.frames[-1]["grant"] == "g1"


# Ended subscriptions


async def test_end_of_a_subscription_is_told_to_reader_client_and_log(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[CallError] = []
    client = await connect(scripted, on_unsubscribed=told.append)
    called: list[Any] = []
    await client.subscribe("news", lambda message: called.append(message.message))
    async with client.subscribe("news") as messages:
        await scripted.deliver("news", 1)
        await scripted.broadcast(ENDED | {"topic": "news"})
        await scripted.deliver("news", 2)
        first = await messages.get()
        with pytest.raises(ServerError) as caught:
            await messages.get()
    assert first is not None
    assert [first.message] == called == [1]
    error = caught.value
    assert (error.topic, error.code, error.reason) == ("news", "forbidden", "no more")
    assert told == [error]
    assert "the server has ended a subscription: subscribe 'news': forbidden" in caplog.text
    assert client.subscriptions == []
    await client.unsubscribe("news")
    await client.publish("a", 1)
    assert scripted.sent("unsubscribe") == []


@pytest.mark.parametrize("is_dropped", [True, False])
async def test_what_an_earlier_subscription_brought_is_not_for_one_in_flight(
    scripted: ScriptedServer, connect: Connect, is_dropped: bool
) -> None:
    client = await connect(scripted)
    first, second = client.subscribe("news"), client.subscribe("news")
    await first.begin()
    scripted.held = []
    if is_dropped:
        first.leave()
    begins = asyncio.create_task(second.begin())
    await wait_until_async(lambda: scripted.frames[-1]["type"] == "subscribe")
    await scripted.broadcast(DELIVERY | {"message": "before a gap"})
    if not is_dropped:
        await scripted.broadcast(ENDED | {"topic": "news"})
    await wait_until_async(lambda: len(scripted.held or ()) == 1 + is_dropped)
    for acknowledge in scripted.held:
        await acknowledge()
    await begins
    await scripted.broadcast(DELIVERY | {"message": "after it"})
    message = await second.get()
    assert message is not None
    assert message.message == "after it"


async def test_refusal_after_a_reconnect_is_told_to_the_client(
    scripted: ScriptedServer, connect: Connect
) -> None:
    told: list[CallError] = []
    client = await connect(scripted, on_unsubscribed=told.append)
    await client.subscribe("news", print)
    scripted.decide = lambda frame: {"code": "forbidden", "reason": "no more"}
    scripted.cut()
    await wait_until_async(lambda: told)
    assert [(error.topic, error.code) for error in told] == [("news", "forbidden")]


async def test_on_unsubscribed_that_raises_is_logged(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def on_unsubscribed(error: CallError) -> None:
        raise ValueError

    client = await connect(scripted, on_unsubscribed=on_unsubscribed)
    await client.subscribe("news", print)
    await scripted.broadcast(ENDED | {"topic": "news"})
    await wait_until_async(lambda: "on_unsubscribed raised" in caplog.text)
    await client.publish("a", 1)


# Threads, and a shell


async def test_blocking_client(scripted: ScriptedServer) -> None:
    tokens, grants = numbered("t"), numbered("g")
    told: list[CallError] = []

    def use() -> None:
        with BlockingClient(
            scripted.url,
            token=lambda: next(tokens),
            token_in="frame",
            on_unsubscribed=told.append,
        ) as client:
            messages = client.subscribe("orders.42", grant=lambda: next(grants))
            ended.set()
            with pytest.raises(ServerError, match="no more"):
                messages.get(timeout=30)
            wait_until(lambda: told)

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    setter = ended.set
    ended.set = lambda: loop.call_soon_threadsafe(setter)  # type: ignore[method-assign, assignment]
    using = asyncio.create_task(asyncio.to_thread(use))
    await ended.wait()
    await scripted.broadcast(ENDED | {"topic": "orders.42"})
    await using
    assert [(frame.get("token"), frame.get("grant")) for frame in scripted.frames] == [
        ("t1", None),
        (None, "g1"),
    ]


@pytest.mark.processes
async def test_token_command_is_run_for_each_connection(
    scripted: ScriptedServer, tmp_path: Any
) -> None:
    # Not token.py: for a traceback, Python 3.13 would import that in place of its own module.
    script = tmp_path / "give.py"
    script.write_text(
        "import pathlib\n"
        "runs = pathlib.Path(__file__).with_name('runs')\n"
        "number = len(runs.read_text()) if runs.exists() else 0\n"
        "runs.write_text('x' * (number + 1))\n"
        "assert number != 1\n"
        "print(f't{number}')\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dwsps_channels.client"),
        *("--token-command", f"{sys.executable} {script}", scripted.url, "subscribe", "news"),
        cwd=ROOT,
    )
    try:
        await wait_until_async(lambda: scripted.topics == ["news"])
        scripted.cut()
        await wait_until_async(lambda: len(scripted.requests) == 2)
    finally:
        process.kill()
        await process.wait()
    assert [request.headers["Authorization"] for request in scripted.requests] == [
        "Bearer t0",
        "Bearer t2",
    ]
