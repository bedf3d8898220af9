"""Many clients who are logged in come back at once, and the look-up of each takes its time."""

import asyncio
import random
from collections import Counter

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tests.processes import Postgres, Server, ServerFactory
from tests.wire.slow_sessions import DELAY

# In one thread their look-ups would take 24 s; in four, 6 s, which is longer than a look-up waits for a thread.
CLIENTS = 240
DEADLINE = 120.0

LOG_IN = """
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
ada, _ = User.objects.get_or_create(username="ada")
session = SessionStore()
session["_auth_user_id"] = str(ada.pk)
session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
session["_auth_user_hash"] = ada.get_session_auth_hash()
session.save()
print(session.session_key)
"""


@pytest.mark.parametrize(
    ("kind", "database"),
    [
        pytest.param("daphne", "sqlite", marks=pytest.mark.full_form),
        ("fastlane", "postgresql"),
    ],
)
async def test_all_who_are_logged_in_come_back_though_many_give_up_meanwhile(
    kind: str, database: str, start_server: ServerFactory, request: pytest.FixtureRequest
) -> None:
    env = {"TEST_SESSION_ENGINE": "tests.wire.slow_sessions"}
    if database == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        env["DATABASE_URL"] = postgres.url
    server = start_server(
        kind, env=env, dwsps={"POLICY": "dwsps_channels.policies.AuthenticatedOnly"}
    )
    cookie = {"Cookie": f"sessionid={server.manage('shell', '-v', '0', '-c', LOG_IN).strip()}"}
    failures: Counter[object] = Counter()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        # Some have a short timeout: they are gone before a thread is free.
        coming = [
            group.create_task(come_back(server, cookie, failures, 20.0 if number % 4 else 1.0))
            for number in range(CLIENTS)
        ]
    clients = [task.result() for task in coming]
    await clients[-1].send('{"type":"subscribe","topic":"for.users"}')
    assert '"ack"' in str(await clients[-1].recv())
    await asyncio.gather(*(client.close() for client in clients))
    assert failures[503], failures
    assert "Traceback" not in server.log


async def come_back(
    server: Server, cookie: dict[str, str], failures: Counter[object], timeout: float
) -> ClientConnection:
    """Try until it works, with full jitter."""
    for attempt in range(100):
        try:
            return await connect(
                server.url,
                additional_headers=cookie,
                open_timeout=timeout,
                compression=None,
                ping_interval=None,
                proxy=None,
            )
        except InvalidStatus as rejected:
            failures[rejected.response.status_code] += 1
        except (InvalidHandshake, OSError, TimeoutError) as error:
            failures[type(error)] += 1
        await asyncio.sleep(random.random() * min(5.0, DELAY * 2.0**attempt))
    raise AssertionError(f"never came back: {failures}")
