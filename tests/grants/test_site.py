"""Grants of a real site, with real sessions, on every kind of server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.access.browser import Browser
from tests.conftest import server_factory
from tests.processes import Redis, Server, ServerFactory
from tests.wire.client import RECEIVE_TIMEOUT, WireClient, connected

SITE = {"DJANGO_SETTINGS_MODULE": "tests.grants.site_settings"}
DWSPS = {"POLICY": "tests.grants.site.GrantsOnly"}


class Reader:
    """A browser, whose pages and websockets are those of one server."""

    def __init__(self, server: Server, browser: Browser | None = None) -> None:
        self.server = server
        self.browser = browser or Browser()

    async def get(self, path: str) -> str:
        return await self.browser.get(self.server, path)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[WireClient]:
        async with connected(self.server.url, additional_headers=self.browser.headers) as client:
            yield client

    async def ask(self, topic: str, grant: str) -> str:
        """Subscribe on a new connection; return "ack", or why not."""
        async with self.connected() as client:
            return await ask(client, topic, grant)


async def ask(client: WireClient, topic: str, grant: str) -> str:
    answer = await client.call("subscribe", topic, grant=grant)
    if answer["type"] == "ack":
        return "ack"
    assert answer["code"] == "forbidden"
    return str(answer["reason"]).rpartition(": ")[2]


@pytest.fixture(scope="module")
def site(
    server_kind: str, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("site")
    with Server.all_closed() as servers:
        start = server_factory(servers, folder, migrated_database)
        yield start(server_kind, env=SITE, dwsps=DWSPS)


# For what does not depend on the kind of server.
on_one_kind = pytest.mark.parametrize("server_kind", ["fastlane"], indirect=True)

ANOTHERS = "the grant is another user's, or from before a login or a change of password or rights"


async def test_a_visitor_and_a_user_each_follow_what_their_page_has_signed(site: Server) -> None:
    visitor, ada, bob = Reader(site), Reader(site), Reader(site)
    await ada.get("enter/ada/")
    await bob.get("enter/bob/")
    readers = (visitor, ada, bob)
    grants = {each: await each.get("order/42/") for each in readers}

    for reader in readers:
        answers = [await reader.ask("orders.42", grants[each]) for each in readers]
        expected = ["ack" if each is reader else ANOTHERS for each in readers]
        assert answers == expected
    async with visitor.connected() as one, ada.connected() as two:
        assert await ask(one, "orders.42", grants[visitor]) == "ack"
        assert await ask(two, "orders.42.items", grants[ada]) == "ack"
        assert await ask(two, "orders.42", grants[ada]) == "ack"
        await bob.get("tell/42/")
        for client in (one, two):
            assert (await client.receive())["message"] == "ready"
        assert (await two.call("publish", "orders.42", message="mine"))["code"] == "forbidden"
        assert await ask(two, "orders", grants[ada]) == "the grant is for another topic"


async def test_pages_of_async_views_sign_too(site: Server) -> None:
    ada, visitor = Reader(site), Reader(site)
    await ada.get("enter/ada/")

    assert await ada.ask("orders.42", await ada.get("async/order/42/")) == "ack"
    assert await ada.ask("orders.42", await ada.get("thread/order/42/")) == "ack"
    assert await visitor.ask("orders.42", await visitor.get("thread/order/42/")) == "ack"


@on_one_kind
async def test_a_grant_ends_with_the_login_the_password_and_the_group(site: Server) -> None:
    ada = Reader(site)
    await ada.get("enter/ada/")
    first = await ada.get("order/42/")
    await ada.get("group/")
    second = await ada.get("order/42/")
    assert await ada.ask("orders.42", first) == "the grant was revoked"
    assert await ada.ask("orders.42", second) == "ack"

    await ada.get("password/")
    third = await ada.get("order/42/")
    assert await ada.ask("orders.42", second) == ANOTHERS
    assert await ada.ask("orders.42", third) == "ack"

    await ada.get("leave/")
    assert "neither a user nor a session" in await ada.ask("orders.42", third)
    fourth = await ada.get("order/42/")
    assert await ada.ask("orders.42", third) == ANOTHERS
    assert await ada.ask("orders.42", fourth) == "ack"


@on_one_kind
async def test_what_was_revoked_is_refused_and_what_comes_after_is_not(site: Server) -> None:
    visitor = Reader(site)
    old = await visitor.get("order/7/")
    other = await visitor.get("order/8/")

    await visitor.get("revoke/orders.7/")

    assert await visitor.ask("orders.7", old) == "the grant was revoked"
    assert await visitor.ask("orders.8", other) == "ack"
    assert await visitor.ask("orders.7", await visitor.get("order/7/")) == "ack"


@on_one_kind
@pytest.mark.parametrize("change", ["revoke/orders/", "group/"])
async def test_a_subscription_ends_with_its_grant(site: Server, change: str) -> None:
    ada = Reader(site)
    await ada.get("enter/ada/")
    grant = await ada.get("order/42/")
    async with ada.connected() as client:
        assert await ask(client, "orders.42", grant) == "ack"

        await ada.get(change)

        ended = await client.receive()
        assert (ended["type"], ended["topic"]) == ("unsubscribed", "orders.42")
        assert ended["code"] == "forbidden"
        assert ended["reason"].endswith("the grant was revoked")
        await ada.get("tell/42/")
        await client.nothing_more()
        # The view may still allow it.
        assert await ask(client, "orders.42", await ada.get("order/42/")) == "ack"


@on_one_kind
async def test_a_subscription_ends_when_its_grant_expires(site: Server) -> None:
    visitor = Reader(site)
    await visitor.get("order/42/")  # gives the visitor a session
    async with visitor.connected() as client:
        async with asyncio.timeout(RECEIVE_TIMEOUT):
            grant = await visitor.get("order/42/?expires=1")
            # On a busy machine it may have expired on its way.
            while await ask(client, "orders.42", grant) != "ack":
                grant = await visitor.get("order/42/?expires=1")

        ended = await client.receive()

        assert (ended["type"], ended["topic"]) == ("unsubscribed", "orders.42")
        assert ended["reason"].endswith("the grant has expired")
        assert await ask(client, "orders.42", grant) == "the grant has expired"


async def test_a_logout_ends_the_connection(site: Server) -> None:
    ada = Reader(site)
    await ada.get("enter/ada/")
    async with ada.connected() as client:
        assert await ask(client, "orders.42", await ada.get("order/42/")) == "ack"

        await ada.get("leave/")

        error = await client.receive()
        assert (error["type"], error["code"]) == ("error", "unauthorized")
        await client.connection.wait_closed()
        assert client.connection.close_code == 4001


@on_one_kind
async def test_an_old_grant_wins_no_race_with_its_revocation(site: Server) -> None:
    """A client that goes on subscribing and resuming while its grant is revoked has nothing afterwards."""
    visitor = Reader(site)
    topic = "orders.9"
    grant = await visitor.get("order/9/")

    async def go_round(client: WireClient) -> list[str]:
        """Subscribe, unsubscribe and resume, without a look at the answers; return their types."""
        await client.send({"type": "subscribe", "topic": topic, "grant": grant})
        await client.send({"type": "unsubscribe", "topic": topic})
        await client.send(
            {"type": "resume", "topics": [topic], "since": "", "grants": {topic: grant}, "id": 1}
        )
        answers = [await client.receive()]
        while answers[-1].get("id") != 1:
            answers.append(await client.receive())
        return [each["type"] for each in answers]

    async with visitor.connected() as client:
        assert await go_round(client) == ["ack"] * 3
        revoking = asyncio.create_task(visitor.get("revoke/orders.9/"))
        while not revoking.done():
            await go_round(client)
        await visitor.get("tell/9/")
        assert "publish" not in await go_round(client)


# The messages that a process keeps, and the log; more are published after what was revoked.
FEW = {"TAIL_MESSAGES": 5, "LOG_MESSAGES": 5}


async def publish_many(reader: Reader) -> None:
    for _ in range(FEW["LOG_MESSAGES"] * 2):
        await reader.get("tell/42/")


def test_a_server_that_starts_again_remembers_what_was_revoked(start_server: ServerFactory) -> None:
    backend = {"BACKEND": "dwsps_channels.broker.backends.DatabaseBackend"}
    dwsps = {**DWSPS, **FEW, "BROKER": backend}

    async def before(server: Server) -> tuple[Reader, str, str]:
        visitor = Reader(server)
        revoked = await visitor.get("order/42/")
        await visitor.get("revoke/orders.42/")
        await publish_many(visitor)
        return visitor, revoked, await visitor.get("order/42/")

    async def after(visitor: Reader, revoked: str, good: str) -> list[str]:
        return [await visitor.ask("orders.42", grant) for grant in (revoked, good)]

    server = start_server("fastlane", env=SITE, dwsps=dwsps)
    visitor, revoked, good = asyncio.run(before(server))
    server.kill()
    server.start()

    assert asyncio.run(after(visitor, revoked, good)) == ["the grant was revoked", "ack"]


async def test_every_process_heeds_a_revocation_and_one_that_starts_later(
    start_server: ServerFactory, redis: Redis
) -> None:
    env = {**SITE, "REDIS_URL": redis.url}
    dwsps = {**DWSPS, **FEW}
    one, other = (start_server(kind, env=env, dwsps=dwsps) for kind in ("fastlane", "daphne"))
    here = Reader(one)
    there = Reader(other, here.browser)
    await here.get("enter/ada/")
    first, second = await here.get("order/1/"), await there.get("order/2/")
    async with here.connected() as near, there.connected() as far:
        for client in (near, far):
            assert await ask(client, "orders.1", first) == "ack"
            assert await ask(client, "orders.2", second) == "ack"

        await here.get("revoke/orders.1/")

        for client in (near, far):
            ended = await client.receive()
            assert (ended["type"], ended["topic"]) == ("unsubscribed", "orders.1")
            assert await ask(client, "orders.1", first) == "the grant was revoked"
            assert await ask(client, "orders.2", second) == "ack"
            assert await ask(client, "orders.1", await there.get("order/1/")) == "ack"

    await publish_many(here)
    other.kill()
    other.start()
    assert await there.ask("orders.1", first) == "the grant was revoked"
    assert await there.ask("orders.2", second) == "ack"
