"""Tokens and grants are in no log, no error and no repr, whatever happens to the connection."""

import asyncio
import logging
import traceback
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from dwsps_channels.client import (
    BlockingClient,
    Client,
    ClientError,
    Redirected,
    Refused,
    open_connection,
)
from tests.client.scripted import IGNORE, NOW, ScriptedServer, response
from tests.processes import HOST, free_port, wait_until_async

HEADER = "h3ader-s3cret"
QUERY = "qu3ry-s3cret"


def assert_silent(*texts: str) -> None:
    for text in texts:
        assert HEADER not in text
        assert QUERY not in text


def all_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)


async def test_whole_life_of_a_client(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # of all: websockets and asyncio, too
    errors: list[Any] = []
    scripted.answer = lambda request: response(HTTPStatus.UNAUTHORIZED)
    client = Client(
        f"{scripted.url}?token={QUERY}",
        token=HEADER,
        headers={"Cookie": f"session={HEADER}"},
        min_delay=0.01,
        max_delay=0.01,
        heartbeat=0.01,
    )
    reprs = [repr(client)]
    async with client:
        await wait_until_async(lambda: isinstance(client.last_error, Refused))
        errors.append(client.last_error)
        scripted.answer = lambda request: response(HTTPStatus.FOUND, Location=request.path)
        await wait_until_async(lambda: isinstance(client.last_error, Redirected))
        errors.append(client.last_error)
        scripted.answer = lambda request: None
        await client.wait_open()
        reprs.append(repr(client))
        async with client.subscribe("a") as messages:
            reprs.append(repr(messages))
            await client.publish("a", 1)
            await wait_until_async(lambda: client.latency)
            scripted.decide = lambda frame: IGNORE
            publishing = asyncio.create_task(client.publish("a", 2))
            await wait_until_async(lambda: len(scripted.sent("publish")) == 2)
            scripted.cut()
            errors += await asyncio.gather(publishing, return_exceptions=True)
            errors.append(client.last_error)
        await scripted.kill()
        await wait_until_async(lambda: "cannot be reached" in caplog.text)
        errors.append(client.last_error)
    assert any(HEADER in str(request.headers) for request in scripted.requests)
    assert any(QUERY in request.path for request in scripted.requests)
    ours = [record for record in caplog.records if not record.name.startswith("websockets.server")]
    assert {record.name for record in ours} >= {"dwsps_channels.client"}
    assert_silent(
        *reprs,
        *(all_of(error) for error in errors),
        *(record.getMessage() for record in ours),
        *(str(record.exc_text) for record in ours),
    )


@pytest.mark.parametrize("status", [101, 200, 302, 401, 500])
async def test_handshakes_that_fail(scripted: ScriptedServer, status: int) -> None:
    scripted.answer = lambda request: response(
        HTTPStatus(status), Location=f"ws://user:{QUERY}@{HOST}{request.path}", Echo=HEADER
    )
    with pytest.raises(ClientError) as caught:
        async with open_connection(f"{scripted.url}?token={QUERY}", token=HEADER):
            pass
    assert_silent(all_of(caught.value))


async def test_addresses_that_lead_nowhere() -> None:
    for host in (f"{HOST}:{free_port()}", "169.254.169.254", "no-such-host.invalid"):
        with pytest.raises(ClientError) as caught:
            async with open_connection(f"ws://{host}/?token={QUERY}", token=HEADER):
                pass
        assert_silent(all_of(caught.value))


async def test_tokens_that_cannot_be_sent(scripted: ScriptedServer) -> None:
    for token in (f"{HEADER}\r\n", f"{HEADER} ", f"{HEADER}ü"):
        with pytest.raises(ClientError) as caught:
            async with open_connection(scripted.url, token=token):
                pass
        assert_silent(all_of(caught.value))


async def test_connection_that_is_open(scripted: ScriptedServer) -> None:
    async def send_away(session: ServerConnection) -> None:
        await session.close(4001, "who are you")

    scripted.welcome = send_away
    async with open_connection(f"{scripted.url}?token={QUERY}", token=HEADER) as connection:
        assert_silent(repr(connection))
        with pytest.raises(ClientError) as caught:
            await connection.receive()
        assert_silent(all_of(caught.value))


async def test_tokens_and_grants_in_frames(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    refused = {"code": "forbidden", "reason": "no"}
    scripted.decide = lambda frame: refused if frame["type"] == "subscribe" else None
    texts: list[str] = []
    client = Client(
        scripted.url, token=lambda: HEADER, token_in="frame", min_delay=0.01, max_delay=0.01
    )
    async with client:
        subscription = client.subscribe("a", grant=QUERY)
        texts += [repr(client), repr(subscription)]
        for grant in (QUERY, f"{QUERY}\ud800", QUERY * 1000, lambda: f"{QUERY}\ud800"):
            with pytest.raises(ClientError) as caught:
                await client.subscribe("a", print, grant=grant)
            texts.append(all_of(caught.value))
        scripted.decide = lambda frame: {"code": "unauthorized", "reason": "no"}
        await scripted.broadcast({"type": "expiring", "timestamp": NOW, "expiresIn": 0})
        await wait_until_async(lambda: "refused another token" in caplog.text)
        await scripted.close(4001)
        await wait_until_async(lambda: client.state == "closed")
        texts.append(all_of(client.last_error or AssertionError()))
    assert [frame["token"] for frame in scripted.sent("authenticate")] == [HEADER] * 3
    assert [frame["grant"] for frame in scripted.sent("subscribe")] == [QUERY]
    ours = [record for record in caplog.records if not record.name.startswith("websockets.server")]
    assert_silent(
        *texts,
        *(record.getMessage() for record in ours),
        *(str(record.exc_text) for record in ours),
    )


async def test_blocking_client(scripted: ScriptedServer) -> None:
    def use() -> None:
        with BlockingClient(f"{scripted.url}?token={QUERY}", token=HEADER) as client:
            assert_silent(repr(client), repr(client.subscribe("a")))

    await asyncio.to_thread(use)
