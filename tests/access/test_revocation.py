"""Access that is taken away, on a server of three processes: from the answer of the request on, how long messages still come."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from time import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.access.browser import App, Browser, Socket
from tests.conftest import server_factory
from tests.form import FULL
from tests.processes import Redis, Server, redis_server, wait_until_async

SITE = "tests.access.site:application"

# Seconds after the answer of a request in which messages may still be published that the old right lets through. A message is
# the time at which it was published: when it is read depends on how busy this process is. A server that shares the machine with
# other tests may stand still for a while.
GRACE = 1.0 if FULL else 1.5

# Seconds between two messages.
PUBLISH_INTERVAL = 0.02

# Seconds after which a session expires, in the test of that.
EXPIRY = 4

_names = count(1)


@pytest.fixture(scope="module")
def kinds() -> tuple[str, ...]:
    return "daphne", "fastlane", "uvicorn"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("revocation")


@pytest.fixture(scope="module")
def broker(folder: Path) -> Iterator[Redis]:
    """The Redis of the module's servers."""
    with Redis.all_closed() as redises:
        redises.append(redis_server(folder))
        yield redises[0].start()


@pytest.fixture(scope="module")
def servers(
    kinds: tuple[str, ...], broker: Redis, migrated_database: Path, folder: Path
) -> Iterator[list[Server]]:
    """The processes of one server, one on each kind of server. Their rules are there."""
    with Server.all_closed() as started:
        env = {
            "REDIS_URL": broker.url,
            "DJANGO_SETTINGS_MODULE": "tests.access.site_settings",
            "DWSPS_POLICY": "dwsps_channels.policies.TopicRules",
        }
        dwsps = {"AUTHENTICATOR": "dwsps_channels.tokens.SignedToken"}
        start = server_factory(started, folder, migrated_database)
        for kind in kinds:
            start(kind, env=env, application=SITE, dwsps=dwsps)
        asyncio.run(Browser().visit(started[0], "make_rules"))
        yield started


@asynccontextmanager
async def traffic(server: Server, *topics: str) -> AsyncIterator[None]:
    """Somebody publishes all the time."""

    async def publish(socket: Socket) -> None:
        while True:
            for topic in topics:
                await socket.connection.send(
                    json.dumps({"type": "publish", "topic": topic, "message": time()})
                )
            await asyncio.sleep(PUBLISH_INTERVAL)

    async with Browser().socket(server) as socket:
        publishing = asyncio.create_task(publish(socket))
        try:
            yield
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])


@asynccontextmanager
async def listening(
    browser: Browser, servers: list[Server], topic: str
) -> AsyncIterator[list[Socket]]:
    """A websocket of the browser at each process, which gets messages."""
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(browser.socket(each)) for each in servers]
        for socket in sockets:
            await socket.connection.send(json.dumps({"type": "subscribe", "topic": topic}))
        await wait_until_async(lambda: all(each.messages for each in sockets), what="messages come")
        yield sockets


def lateness(sockets: list[Socket], ends_at: float) -> float:
    """Return how many seconds after ``ends_at`` the last message was published that one of them has got."""
    last = [float(max(each.messages)) - ends_at for each in sockets if each.messages]
    print(f"last messages at {', '.join(f'{1000 * each:+.0f}' for each in last)} ms")
    return max(last)


# By change: the topic that it is about, and the code with which the connections or the subscriptions end.
CHANGES: dict[str, tuple[str, int | str]] = {
    "log_out": ("news", 4001),
    "log_in_as_another": ("news", 4103),
    "change_password": ("news", 4001),
    "deactivate": ("news", 4001),
    "delete": ("news", 4001),
    "expire": ("news", 4001),
    "leave_group": ("members", "forbidden"),
    "lose_permission": ("permitted", "forbidden"),
    "close_topic": ("open", "forbidden"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_no_message_comes_later_than_a_second_after_the_answer(
    servers: list[Server], change: str
) -> None:
    topic, code = CHANGES[change]
    name, bystander_name = f"user{next(_names)}", f"user{next(_names)}"
    acting, elsewhere, bystander = Browser(), Browser(), Browser()
    await acting.visit(servers[0], "sign_up", name=name)
    await elsewhere.visit(servers[1], "log_in", name=name)
    app = App(await elsewhere.get(servers[1], "token"))
    await bystander.visit(servers[0], "sign_up", name=bystander_name)
    async with (
        traffic(servers[1], topic),
        listening(elsewhere, servers, topic) as in_browser,
        listening(app, servers, topic) as in_app,
        listening(bystander, servers, topic) as bystanders,
        AsyncExitStack() as stack,
    ):
        others = [*in_browser, *in_app]
        if change == "expire":
            ends_at = EXPIRY + await acting.visit(servers[0], change, seconds=str(EXPIRY))
        own = await stack.enter_async_context(listening(acting, servers, topic))
        if change != "expire":
            ends_at = await acting.visit(servers[0], change, name=name, topic=topic)
        match change:
            case "log_out" | "log_in_as_another" | "expire":
                out, staying = own, [*others, *bystanders]
            case "change_password":
                out, staying = others, bystanders
            case "close_topic":
                out, staying = [*own, *others, *bystanders], []
            case _:
                out, staying = [*own, *others], bystanders
        await wait_until_async(lambda: all(each.is_out for each in out), what="they are out")
        await all_go_on(staying)
        assert {each.close_code or each.ended[topic] for each in out} == {code}
        assert lateness(out, ends_at) < GRACE
        assert not any(each.after_end for each in out)
        if change == "change_password":
            # The session that has changed it has another key: its clients come back with that.
            await wait_until_async(lambda: all(each.is_out for each in own), what="they are told")
            assert {each.close_code for each in own} == {4103}
            async with listening(acting, servers, topic) as again:
                await all_go_on(again)


async def all_go_on(sockets: list[Socket]) -> None:
    """Wait until each has got some more messages, and see that the server has ended nothing."""
    before = [len(each.messages) for each in sockets]
    await wait_until_async(
        lambda: all(
            len(each.messages) > count + 20 or each.is_out
            for each, count in zip(sockets, before, strict=True)
        ),
        what="others get messages",
    )
    assert not any(each.is_out for each in sockets)


# Attacks: what a client may try while its right is taken away. Each goes on until well after the grace.

AFTER = GRACE + 0.25


async def until(moment: float) -> None:
    await wait_until_async(lambda: time() > moment, what="time passes")


async def send_all_the_time(socket: Socket, *requests: dict[str, object]) -> None:
    with suppress(ConnectionClosed):
        for number in count():
            for request in requests:
                message = {"message": time()} if request["type"] == "publish" else {}
                await socket.connection.send(json.dumps({**request, **message, "id": number + 1}))
            await asyncio.sleep(0.01)


async def test_a_client_that_subscribes_and_resumes_all_the_time_gets_nothing_more(
    servers: list[Server],
) -> None:
    name, attacker = f"user{next(_names)}", Browser()
    await attacker.visit(servers[0], "sign_up", name=name)
    requests: list[dict[str, object]] = [
        {"type": "subscribe", "topic": "members"},
        {"type": "unsubscribe", "topic": "members"},
        {"type": "subscribe", "topic": "members", "last": 5},
        {"type": "resume", "since": "", "topics": ["members", "members.deep"]},
    ]
    async with (
        traffic(servers[1], "members", "members.deep"),
        attacker.socket(servers[0]) as here,
        attacker.socket(servers[1]) as there,
    ):
        sending = [
            asyncio.create_task(send_all_the_time(each, *requests)) for each in (here, there)
        ]
        await wait_until_async(lambda: here.messages and there.messages, what="it gets messages")
        ends_at = await attacker.visit(servers[0], "leave_group", name=name)
        await until(ends_at + AFTER)
        assert lateness([here, there], ends_at) < GRACE
        assert [each.close_code for each in (here, there)] == [None, None]
        for each in sending:
            each.cancel()
        await asyncio.wait(sending)


async def test_a_client_that_publishes_all_the_time_reaches_nobody_more(
    servers: list[Server],
) -> None:
    name, attacker = f"user{next(_names)}", Browser()
    await attacker.visit(servers[0], "sign_up", name=name)
    async with Browser().socket(servers[1]) as reader, attacker.socket(servers[1]) as writer:
        await reader.connection.send(json.dumps({"type": "subscribe", "topic": "written"}))
        publish: dict[str, object] = {"type": "publish", "topic": "written"}
        sending = asyncio.create_task(send_all_the_time(writer, publish))
        await wait_until_async(lambda: reader.messages, what="it publishes")
        ends_at = await attacker.visit(servers[0], "leave_group", name=name)
        await until(ends_at + AFTER)
        assert lateness([reader], ends_at) < GRACE
        await wait_until_async(lambda: writer.replies[-1].get("code") == "forbidden")
        sending.cancel()
        await asyncio.wait([sending])


async def test_a_client_that_connects_in_the_moment_of_its_logout_stays_out(
    servers: list[Server],
) -> None:
    attacker, thief = Browser(), Browser()
    await attacker.visit(servers[0], "sign_up", name=f"user{next(_names)}")
    thief.take_cookies_of(attacker)
    sockets: list[Socket] = []

    async def connect_all_the_time(stack: AsyncExitStack, server: Server) -> None:
        while True:
            socket = await stack.enter_async_context(thief.socket(server))
            sockets.append(socket)
            with suppress(ConnectionClosed):
                await socket.connection.send(json.dumps({"type": "subscribe", "topic": "news"}))

    async with traffic(servers[1], "news"), AsyncExitStack() as stack:
        connecting = [
            asyncio.create_task(connect_all_the_time(stack, each)) for each in servers * 2
        ]
        await wait_until_async(
            lambda: any(each.messages for each in sockets), what="it gets messages"
        )
        ends_at = await attacker.visit(servers[0], "log_out")
        # Some more, with the cookie of the session that has ended.
        number = len(sockets)
        await wait_until_async(lambda: len(sockets) > number + 20, what="it goes on connecting")
        for each in connecting:
            each.cancel()
        await asyncio.wait(connecting)
        await until(ends_at + AFTER)
        assert lateness(sockets, ends_at) < GRACE


async def test_a_command_disconnects_a_user_at_both_processes(servers: list[Server]) -> None:
    name, browser, other = f"user{next(_names)}", Browser(), Browser()
    await browser.visit(servers[0], "sign_up", name=name)
    await other.visit(servers[0], "sign_up", name=f"user{next(_names)}")
    command = (
        "from django.contrib.auth.models import User\n"
        "from dwsps_channels.access import disconnect\n"
        f"disconnect(user=User.objects.get(username='{name}'))"
    )
    async with (
        browser.socket(servers[0]) as here,
        browser.socket(servers[1]) as there,
        other.socket(servers[0]) as bystander,
    ):
        await asyncio.to_thread(servers[0].manage, "shell", "-c", command)
        await wait_until_async(lambda: here.close_code and there.close_code, what="it is out")
        assert (here.close_code, there.close_code) == (4001, 4001)
        assert bystander.close_code is None


async def test_a_change_while_redis_is_away_counts_elsewhere_once_it_is_back(
    servers: list[Server], broker: Redis
) -> None:
    topic, browser = "away", Browser()
    await browser.visit(servers[0], "sign_up", name=f"user{next(_names)}")
    async with browser.socket(servers[0]) as here, browser.socket(servers[1]) as there:
        for each in (here, there):
            await each.connection.send(json.dumps({"type": "subscribe", "topic": topic}))
        await wait_until_async(lambda: here.replies and there.replies, what="they subscribe")
        broker.suspend()
        try:
            await browser.visit(servers[0], "close_topic", topic=topic)
            await wait_until_async(lambda: here.is_out, what="it is out where it happened")
            assert not there.is_out
        finally:
            broker.signal(signal.SIGCONT)
        await wait_until_async(lambda: there.is_out, what="it is out everywhere")
        assert here.ended == there.ended == {topic: "forbidden"}
