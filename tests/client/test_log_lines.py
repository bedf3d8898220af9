"""A hostile server writes nothing into the log, the errors or the terminal of those that connect to it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import Any

import pytest
from msgspec import Raw

from dwsps_channels.client import Client, ClientError, Redirected, open_connection
from dwsps_channels.client.address import Address
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.publisher import OutgoingMessage
from dwsps_channels.publishing.websocket import WebSocketPublisher
from tests.client.scripted import ScriptedServer, response
from tests.processes import ROOT, wait_until_async

EVIL = "\x1b[2J\x9b31m\x85\nFAKE \u202eLINE\u2028\x00" + "x" * 10_000


def assert_harmless(text: str) -> None:
    assert text.isprintable(), repr(text)
    assert len(text) < 1_500


def assert_log_harmless(caplog: pytest.LogCaptureFixture) -> None:
    assert caplog.records
    for record in caplog.records:
        assert_harmless(record.getMessage())


Hostile = Callable[[ScriptedServer], Any]


async def complains(server: ScriptedServer) -> None:
    await server.broadcast({"type": "error", "code": EVIL, "reason": EVIL})


async def closes(server: ScriptedServer) -> None:
    await server.close(4200, EVIL[:30])


async def writes_no_frame(server: ScriptedServer) -> None:
    await server.broadcast(json.dumps({"type": EVIL, "topic": 5}))
    await server.broadcast(EVIL)
    await server.broadcast(json.dumps({"type": "error", "code": EVIL, "reason": 5}))


@pytest.mark.parametrize("hostile", [complains, closes, writes_no_frame])
async def test_what_it_says_on_a_connection(
    hostile: Hostile, scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(scripted.url, min_delay=60) as client:
        await client.wait_open()
        await hostile(scripted)
        await wait_until_async(lambda: caplog.records)
        if client.last_error is not None:
            assert_harmless(str(client.last_error))
    assert_log_harmless(caplog)


async def test_where_it_redirects_to(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    # As a header can carry it: websockets reads one as latin-1.
    location = "http://evil/\x9b31m\x85FAKE\xad" + "x" * 4_000
    scripted.answer = lambda request: response(HTTPStatus.FOUND, Location=location)
    async with Client(scripted.url, min_delay=60) as client:
        await wait_until_async(lambda: isinstance(client.last_error, Redirected))
        assert isinstance(client.last_error, Redirected)
        for text in (str(client.last_error), client.last_error.location):
            assert_harmless(text)
    assert_log_harmless(caplog)


async def test_how_it_refuses_a_call(scripted: ScriptedServer) -> None:
    scripted.decide = lambda frame: {"code": EVIL, "reason": EVIL}
    async with Client(scripted.url) as client:
        for topic in ("news", "a" * 5_000 + "\u202e"):
            with pytest.raises(ClientError) as caught:
                await client.publish(topic, 1)
            assert_harmless(str(caught.value))


async def test_how_it_refuses_a_publish_from_outside(scripted: ScriptedServer) -> None:
    scripted.decide = lambda frame: {"code": EVIL, "reason": EVIL}
    publisher = WebSocketPublisher(scripted.url, lambda: "")
    try:
        with pytest.raises(Unavailable) as caught:
            await asyncio.to_thread(
                publisher.publish,
                OutgoingMessage("news", Raw(b"1"), "2026-01-02T03:04:05.678Z"),
                monotonic() + 20,
            )
        assert_harmless(str(caught.value))
    finally:
        publisher.close()


@pytest.mark.parametrize("character", ["\x9b", "\x85", "\u202e", "\u2028", "\x1b", " "])
async def test_a_url_has_none_of_it(character: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        Address.parse(f"ws://b.example/{character}")
    with pytest.raises(ValueError, match="control character"):
        async with open_connection(f"ws://b.example/{character}"):
            pass


@pytest.mark.processes
async def test_a_message_on_the_command_line_is_whole_and_moves_no_cursor(
    scripted: ScriptedServer,
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dwsps_channels.client", scripted.url, "subscribe", "news"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        await wait_until_async(lambda: scripted.topics)
        assert process.stdout is not None
        await scripted.deliver("news", EVIL)
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        assert line[:-1].isprintable()
        assert json.loads(line)["message"] == EVIL
    finally:
        process.kill()
        await process.wait()
