"""Processes that publish durable messages are killed, and the server and the worker as well: the peer has each message once."""

import asyncio

import pytest

from tests.durability.conftest import Deploy
from tests.durability.traffic import brokers, times
from tests.durable.crasher import MOMENTS
from tests.durable.killing import Received, all_rows_go, run_crasher
from tests.processes import Child, manage, wait_until_async
from tests.wire.client import connected


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("postgres", "redis")))
async def test_what_was_committed_reaches_the_peer_once(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker)
    server, worker = deployment.server, deployment.worker
    victims: list[list[Child]] = [[server], [worker], [server, worker], [worker, server]]
    moments = list(MOMENTS) * times(2, 25)
    async with connected(deployment.south.server.url) as client:
        await client.subscribe("news")
        received = Received(client)
        crashing = asyncio.create_task(run_crasher(server.env, moments))
        while not crashing.done():
            await deployment.pause(0.2, 2.0)
            await deployment.kill(*deployment.moments.choice(victims))
        await crashing
        await all_rows_go(server)
        # What came twice came before it.
        publish_the_end = "from dwsps_channels import publish; publish('news', 'end')"
        await asyncio.to_thread(manage, "shell", "-c", publish_the_end, env=server.env)
        await wait_until_async(lambda: "end" in received.messages, 30, "the end arrives")
        received.end()
    assert sorted(received.messages[:-1]) == list(range(len(moments)))
    deployment.check()
