"""Tokens and grants against one of the project's own servers, as a program on a phone has them."""

import asyncio
from contextlib import suppress
from time import time
from typing import Any

import pytest

from dwsps_channels.client import CallError, Client, ServerError
from tests.processes import HOST, Server, ServerFactory, free_port, wait_until_async
from tests.wire.test_tokens import expiring

BEGIN = """
from django.contrib.auth.models import User
from dwsps_channels.access import disconnect, permission_changed
from dwsps_channels.grants import make_grant
from dwsps_channels.publishing import publish
from dwsps_channels.tokens import make_token
ann, _ = User.objects.get_or_create(username="ann")
"""


@pytest.fixture(scope="module")
def server(start_shared_server: ServerFactory) -> Server:
    port = free_port()
    return start_shared_server(
        "fastlane",
        port=port,
        dwsps={
            "AUTHENTICATOR": "dwsps_channels.tokens.SignedToken",
            "POLICY": "tests.wire.policies.OwnTopics",
            "SERVER_URL": f"ws://{HOST}:{port}/ws/pubsub/",
        },
    )


async def run(server: Server, code: str) -> str:
    """Run code of the project's in a process of its own, and return what it printed."""
    output = await asyncio.to_thread(server.manage, "shell", "-v", "0", "-c", BEGIN + code)
    return output.strip()


async def test_connection_outlives_its_first_token(server: Server) -> None:
    lifetime = 6
    token = await run(server, "print(make_token(ann))")
    # Made here and now, so that it lasts however long a process takes to print one.
    tokens = [expiring(token, server, lifetime), token]
    expires_at = time() + lifetime
    states: list[str] = []
    async with (
        Client(
            server.url, token=lambda: tokens.pop(0), token_in="frame", on_state=states.append
        ) as client,
        client.subscribe("ann") as messages,
    ):
        await wait_until_async(lambda: time() > expires_at)
        await client.publish("ann", "still here")
        got = await messages.get()
    assert got is not None
    assert got.message == "still here"
    assert tokens == []
    assert states == ["open", "closed"]


async def test_grant_lasts_until_it_is_revoked(server: Server) -> None:
    grant = "print(make_grant('orders.42', user=ann))"
    token = await run(server, "print(make_token(ann))")
    asked: list[str] = []
    told: list[CallError] = []
    got: list[Any] = []

    async def ask() -> str:
        asked.append(await run(server, grant))
        return asked[-1]

    async with Client(
        server.url, token=lambda: token, min_delay=0.05, on_unsubscribed=told.append
    ) as client:
        with pytest.raises(ServerError, match="forbidden"):
            await client.subscribe("orders.42", print)
        await client.subscribe("orders.42", lambda message: got.append(message.message), grant=ask)
        await client.subscribe("ann", print)
        with pytest.raises(ServerError, match="forbidden"):
            await client.publish("orders.42", "a grant is for subscribing")

        await run(server, "disconnect(user=ann)")
        await wait_until_async(lambda: len(asked) == 2)
        await client.wait_open()
        await run(server, "publish('orders.42.lines', 1)")
        await wait_until_async(lambda: got == [1])

        await run(server, "permission_changed(user=ann, topic='orders.42')")
        await wait_until_async(lambda: told)
        assert [(error.topic, error.code) for error in told] == [("orders.42", "forbidden")]
        await run(server, "publish('orders.42', 2)")
        with pytest.raises(ServerError, match="forbidden"):
            await client.subscribe("orders.42", print, grant=asked[-1])
        await client.subscribe("orders.42", print, grant=ask)
        await client.publish("ann", "the rest goes on")
        assert got == [1]
        assert client.subscriptions == ["ann", "orders.42"]


async def test_false_token_ends_the_client_and_says_so(server: Server) -> None:
    async with Client(server.url, token="dwspst_false", token_in="frame") as client:
        with suppress(Exception):
            await client.wait_open()
        await wait_until_async(lambda: client.state == "closed")
        assert "token" in str(client.last_error)
