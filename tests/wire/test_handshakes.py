"""Handshakes that have to ask the database who is there, on every server."""

from contextlib import AsyncExitStack
from functools import partial

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.processes import HOST, Postgres, ServerFactory, free_port, wait_until_async
from tests.wire.client import connected

COOKIE = {"Cookie": f"sessionid={'a' * 32}"}
SECRET = {"Authorization": "Bearer a-secret-of-a-peer"}


async def test_with_the_database_away_a_look_up_is_answered_with_503(
    start_server: ServerFactory, server_kind: str
) -> None:
    away = f"postgres://nobody@{HOST}:{free_port()}/nothing"
    server = start_server(server_kind, env={"DATABASE_URL": away})
    for headers in (COOKIE, SECRET):
        with pytest.raises(InvalidStatus) as rejected:
            await connect(server.url, additional_headers=headers, proxy=None)
        assert rejected.value.response.status_code == 503
    # Whoever needs no look-up is served all the same.
    async with connected(server.url) as client:
        await client.subscribe("news")
    assert server.log.count("connections are rejected with 503") == 1
    assert "Traceback" not in server.log


async def test_after_a_restart_of_the_database_policies_answer_again(
    start_server: ServerFactory, server_kind: str, postgres: Postgres
) -> None:
    server = start_server(
        server_kind,
        env={"DATABASE_URL": postgres.url},
        dwsps={"POLICY": "tests.wire.policies.FailsClosed"},
    )
    async with connected(server.url) as client:

        async def is_allowed(action: str) -> bool:
            answer = await client.call(action, f"of.{action}s", message=1)
            return bool(answer["type"] == "ack")

        assert await is_allowed("subscribe")
        assert await is_allowed("publish")
        async with connected(server.url, additional_headers=COOKIE):
            postgres.restart()
        for action in ("subscribe", "publish"):
            await wait_until_async(partial(is_allowed, action), what=f"{action} is allowed")
    async with connected(server.url, additional_headers=COOKIE) as client:
        await client.publish("a", 1)


async def test_a_slow_policy_holds_up_neither_handshakes_nor_deliveries(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind, dwsps={"POLICY": "tests.wire.policies.Slow"})
    async with AsyncExitStack() as connections, connected(server.url) as client:
        await client.subscribe("news")
        for number in range(20):  # more than there are threads
            slow = await connections.enter_async_context(connected(server.url))
            topic = "slow.database" if number % 2 else "slow"
            await slow.send({"type": "subscribe", "topic": topic})
        async with connected(server.url, additional_headers=COOKIE) as known:
            await known.publish("news", 1)
        assert (await client.receive())["message"] == 1
        # A connection whose question is not answered yet would not answer a close either.
        server.kill()
