"""Clients that say who they are by a token, on every kind of server."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest
from django.core.signing import Signer
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dwsps_channels.protocol.tokens import PREFIX
from dwsps_channels.server.credentials import FREE_TOKENS
from tests.conftest import server_factory
from tests.processes import Server, wait_until
from tests.wire.client import WireClient, connected

SECRET = "the-secret-of-a-peer-of-this-server"
PAGE = "https://app.example"

# Whom the tokens stand for, and one whose user is deactivated afterwards.
MAKE = f"""
import json
from django.contrib.auth.models import User
from dwsps_channels.models import Peer
from dwsps_channels.tokens import make_token
Peer.objects.create(name="far", url="ws://far.example/", secret={SECRET!r}, forward=False)
users = {{name: User.objects.create_user(name, password=name) for name in ("ann", "bob", "eve")}}
tokens = {{name: make_token(user) for name, user in users.items()}}
User.objects.filter(username="eve").update(is_active=False)
print("TOKENS", json.dumps(tokens))
"""


@pytest.fixture(scope="module")
def server(
    server_kind: str, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that takes tokens, and pages of another host."""
    folder = tmp_path_factory.mktemp("tokens")
    with Server.all_closed() as servers:
        yield server_factory(servers, folder, migrated_database)(
            server_kind,
            env={"DWSPS_ALLOWED_ORIGINS": PAGE},
            dwsps={
                "AUTHENTICATOR": "dwsps_channels.tokens.SignedToken",
                "POLICY": "tests.wire.policies.OwnTopics",
            },
        )


@pytest.fixture(scope="module")
def tokens(server: Server) -> dict[str, str]:
    """Each by the name of its user."""
    [line] = [
        line
        for line in server.manage("shell", "-v", "0", "-c", MAKE).splitlines()
        if line.startswith("TOKENS ")
    ]
    found: dict[str, str] = json.loads(line.removeprefix("TOKENS "))
    return found


def bearer(token: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def expiring(token: str, server: Server, seconds: float) -> str:
    """The same token, made to expire soon; with the server's key."""
    signer = Signer(key=server.env["SECRET_KEY"], salt="dwsps_channels.tokens.v1")
    stated: dict[str, Any] = signer.unsign_object(token.removeprefix(PREFIX))
    return PREFIX + signer.sign_object(stated | {"expires": int(time() + seconds)})


async def status(url: str, **options: Any) -> int:
    try:
        async with connected(url, **options):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def authenticate(client: WireClient, token: str) -> Any:
    await client.send({"type": "authenticate", "token": token, "id": 1})
    return await client.receive()


async def is_user(client: WireClient, name: str) -> bool:
    return bool((await client.call("subscribe", name))["type"] == "ack")


async def test_a_token_comes_in_the_header_the_url_or_a_frame(
    server: Server, tokens: dict[str, str]
) -> None:
    async with connected(server.url, **bearer(tokens["ann"])) as client:
        assert await is_user(client, "ann")
    async with connected(f"{server.url}/?token={tokens['ann']}") as client:
        assert await is_user(client, "ann")
    async with connected(server.url) as client:
        assert not await is_user(client, "ann")
        ack = await authenticate(client, tokens["ann"])
        assert (ack["type"], ack["action"], ack["id"]) == ("ack", "authenticate", 1)
        assert 3500 < ack["expiresIn"] <= 3600
        assert await is_user(client, "ann")
        assert (await authenticate(client, tokens["bob"]))["code"] == "unauthorized"
        assert (await authenticate(client, "dwspst_false"))["code"] == "unauthorized"
        await client.publish_and_receive("ann", 1)


async def test_false_ones_are_refused_with_403(server: Server, tokens: dict[str, str]) -> None:
    for token in (tokens["eve"], tokens["ann"][:-1] + "_", "dwspst_", "opaque", "x" * 8000):
        assert await status(server.url, **bearer(token)) == 403, token
        assert await status(f"{server.url}/?token={token}") == 403, token


async def test_no_log_has_a_token(server: Server, tokens: dict[str, str]) -> None:
    false = tokens["bob"][:-1] + "_"
    for token in (tokens["bob"], false, "opaque-token-of-somebody", SECRET):
        await status(f"{server.url}/?a=b&token={token}", **bearer(token))
        await status(f"{server.url}/ws/pubsub/?token={token}")
        async with connected(server.url) as client:
            await authenticate(client, token)
    wait_until(lambda: "refused: not a valid token" in server.log)
    for token in (tokens["bob"], false, "opaque-token-of-somebody", SECRET):
        assert token not in server.log


async def test_tokens_are_taken_beside_a_flood_of_false_secrets(
    server: Server, tokens: dict[str, str]
) -> None:
    statuses = {
        await status(server.url, **bearer(f"{SECRET[:-2]}{number:02}")) for number in range(5)
    }
    assert statuses <= {403, 429}
    async with connected(server.url, **bearer(tokens["ann"])) as client:
        assert await is_user(client, "ann")


async def test_a_page_of_another_host_needs_its_origin_to_be_allowed(
    server: Server, tokens: dict[str, str]
) -> None:
    """A token makes no difference: the same page could be opened by somebody with a cookie."""
    assert await status(server.url, origin=PAGE, **bearer(tokens["ann"])) == 101
    for url, options in ((server.url, bearer(tokens["ann"])), (f"{server.url}/?token=x", {})):
        assert await status(url, origin="https://evil.example", **options) in (400, 403)


async def test_a_client_is_warned_before_its_token_expires_and_then_closed(
    server: Server, tokens: dict[str, str]
) -> None:
    # Both have time for what comes before their end, also on a busy machine.
    short, other = (expiring(tokens["ann"], server, seconds) for seconds in (6, 50))
    async with (
        connected(server.url, **bearer(short)) as closed,
        connected(server.url, **bearer(other)) as renewed,
    ):
        for client, most in ((closed, 6), (renewed, 50)):
            warning = await client.receive()
            assert warning["type"] == "expiring"
            assert 0 <= warning["expiresIn"] <= most
        assert (await authenticate(renewed, tokens["ann"]))["type"] == "ack"
        error = await closed.receive()
        assert (error["type"], error["code"], error["retryable"]) == (
            "error",
            "unauthorized",
            False,
        )
        assert "action" not in error
        with pytest.raises(ConnectionClosed) as end:
            await closed.receive()
        assert end.value.rcvd is not None
        assert end.value.rcvd.code == 4001
        assert await is_user(renewed, "ann")
    assert await status(server.url, **bearer(short)) == 403


async def test_peers_come_with_their_secret_beside_a_flood_of_false_tokens(
    server: Server, tokens: dict[str, str]
) -> None:
    answers: asyncio.Queue[int] = asyncio.Queue()

    async def go_on_guessing(number: int) -> None:
        for again in itertools.count():
            answers.put_nowait(await status(server.url, **bearer(f"opaque-{number}-{again}")))

    signed = [
        asyncio.create_task(status(server.url, **bearer(f"dwspst_{number}")))
        for number in range(FREE_TOKENS)
    ]
    guessing = [asyncio.create_task(go_on_guessing(number)) for number in range(FREE_TOKENS)]
    # From here on the flood is being slowed down.
    assert {await answers.get() for _ in range(FREE_TOKENS)} <= {403, 429}
    async with connected(server.url, **bearer(SECRET)) as peer:
        assert (await peer.receive())["type"] == "hello"
        ack = await peer.call("publish", "bob", message=1, fromPeerServer=True)
        assert ack["type"] == "ack"
    assert await asyncio.gather(*signed) == [403] * FREE_TOKENS
    for each in guessing:
        each.cancel()
    await asyncio.wait(guessing)
