"""The credential of the server's own code in another process."""

import asyncio
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.core.signing import Signer, TimestampSigner
from django.test import override_settings

from dwsps_channels.core.identity import Role
from dwsps_channels.peering.inbound import worker_credentials
from dwsps_channels.peering.inbound.worker_credentials import (
    LIFETIME,
    InvalidCredential,
    Purpose,
    WorkerCredentials,
    sign_worker,
)
from tests.clock import Clock

OURS, ANOTHER = "0" * 32, "1" * 32
SALT = "dwsps_channels.worker.v2"


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    clock = Clock()
    with mock.patch.object(worker_credentials, "time", clock):
        yield clock


@pytest.fixture
def credentials() -> WorkerCredentials:
    async def own_id() -> str:
        return OURS

    return WorkerCredentials(own_id)


def forward() -> str:
    return sign_worker(OURS, Purpose.FORWARD)


async def refusal(credentials: WorkerCredentials, token: str, *, in_header: bool = True) -> str:
    with pytest.raises(InvalidCredential) as caught:
        await credentials.authenticate(token, in_header=in_header)
    return str(caught.value)


async def test_it_gives_what_it_is_for_and_no_more(credentials: WorkerCredentials) -> None:
    for purpose, role in (
        (Purpose.FORWARD, Role.WORKER),
        (Purpose.PUBLISH, Role.PUBLISHER),
        (Purpose.READ, Role.READER),
    ):
        assert await credentials.authenticate(sign_worker(OURS, purpose), in_header=True) is role


async def test_it_works_once(credentials: WorkerCredentials) -> None:
    token = forward()
    await credentials.authenticate(token, in_header=True)
    assert "used before" in await refusal(credentials, token)
    await credentials.authenticate(forward(), in_header=True)


async def test_of_many_that_come_at_once_with_the_same_one_is_let_in() -> None:
    go = asyncio.Event()

    async def own_id() -> str:
        await go.wait()
        return OURS

    credentials, token = WorkerCredentials(own_id), forward()
    tries = [
        asyncio.create_task(credentials.authenticate(token, in_header=True)) for _ in range(20)
    ]
    await asyncio.sleep(0)
    go.set()
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert answers.count(Role.WORKER) == 1
    assert sum(isinstance(answer, InvalidCredential) for answer in answers) == 19


async def test_it_is_for_one_server(credentials: WorkerCredentials) -> None:
    told = await refusal(credentials, sign_worker(ANOTHER, Purpose.FORWARD))
    assert "another server" in told


async def test_it_comes_in_a_header_only(credentials: WorkerCredentials) -> None:
    token = forward()
    assert "in a header only" in await refusal(credentials, token, in_header=False)
    # That did not use it up: nobody gains by it, but the log.
    await credentials.authenticate(token, in_header=True)


@pytest.mark.parametrize("direction", [1, -1])
async def test_it_is_good_for_a_minute_by_clocks_that_differ_either_way(
    direction: int, credentials: WorkerCredentials, clock: Clock
) -> None:
    clock.now = 100_000.0
    for age, good in ((LIFETIME, True), (LIFETIME + 1, False)):
        clock.now = 100_000.0
        token = forward()
        clock.now += direction * age
        if good:
            await credentials.authenticate(token, in_header=True)
        else:
            assert "clocks" in await refusal(credentials, token)


async def test_what_was_used_is_remembered_for_as_long_as_it_would_be_good_and_no_longer(
    credentials: WorkerCredentials, clock: Clock
) -> None:
    early = forward()
    clock.now -= LIFETIME  # by the server's clock it is signed a minute from now
    await credentials.authenticate(early, in_header=True)
    clock.now += 2 * LIFETIME
    assert "used before" in await refusal(credentials, early)
    for _ in range(1_000):
        await credentials.authenticate(forward(), in_header=True)
        clock.now += 1
    assert len(credentials._used) <= LIFETIME + 2


async def test_a_fallback_key_signs_none(credentials: WorkerCredentials, settings: Any) -> None:
    """One that leaked is replaced, and kept as a fallback for what it has encrypted."""
    old = forward()
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    with override_settings(SECRET_KEY="another-key"):
        assert "another SECRET_KEY" in await refusal(credentials, old)
        await credentials.authenticate(forward(), in_header=True)


@pytest.mark.parametrize(
    "token",
    [
        "worker.",
        "worker.dwsps",
        "worker.dwsps:1",
        "worker.::",
        "worker.\xff:\u2603:é",
        "worker." + "x" * 100_000,
        "worker." + Signer(salt="another").sign_object({"server": OURS}),
        "worker." + TimestampSigner(salt="dwsps_channels.worker").sign("dwsps"),
        "worker." + Signer(salt=SALT).sign("no object"),
    ],
    ids=range(9),  # the same in each process of the tests
)
async def test_garbage_is_rejected(token: str, credentials: WorkerCredentials) -> None:
    assert "SECRET_KEY" in await refusal(credentials, token)


@pytest.mark.django_db(transaction=True)
async def test_the_servers_id_is_looked_up_once() -> None:
    credentials = WorkerCredentials()
    with mock.patch.object(worker_credentials, "server_id", return_value=OURS) as looked_up:
        for _ in range(3):
            await credentials.authenticate(forward(), in_header=True)
    assert looked_up.call_count == 1
