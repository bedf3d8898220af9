"""Authentication of connections by their credentials."""

import asyncio
import base64
import json
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.test import override_settings
from django.utils.crypto import constant_time_compare

from dwsps_channels.connections.throttle import FREE, Throttle
from dwsps_channels.core.identity import Role
from dwsps_channels.models import Peer, server_id
from dwsps_channels.peering.inbound.authentication import (
    UNAUTHENTICATED,
    Authenticated,
    Credential,
    Rejected,
    authenticate_peer,
    credential_in,
    secret_lengths,
)
from dwsps_channels.peering.inbound.worker_credentials import Purpose, sign_worker
from dwsps_channels.server import credentials
from dwsps_channels.testing import Closed, PubSubCommunicator
from tests.clock import Clock

SECRET = "the-secret-of-this-peer"
OTHER = "the-secret-of-another-peer"

db = pytest.mark.django_db(transaction=True)


def scope(*headers: tuple[bytes, bytes], query: bytes = b"") -> dict[str, Any]:
    return {"headers": list(headers), "query_string": query}


def in_header(token: str) -> Credential:
    return Credential(token, in_header=True)


async def authenticated(credential: Credential) -> Authenticated | Rejected:
    return await database_sync_to_async(authenticate_peer)(credential)


async def workers_credential(purpose: Purpose = Purpose.FORWARD) -> str:
    return sign_worker(await database_sync_to_async(server_id)(), purpose)


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


async def create(name: str = "far", **values: Any) -> Peer:
    return await Peer.objects.acreate(
        **{"name": name, "url": f"ws://{name}.example/", "secret": SECRET} | values
    )


class TestPresented:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (scope(), None),
            (scope(query=b"a=b&tokens=c"), None),
            (scope((b"authorization", b"Basic dXNlcjpwdw==")), None),
            (scope((b"authorization", b"Bearer abc")), Credential("abc", True)),
            (scope((b"authorization", b"bearer  abc ")), Credential("abc", True)),
            (scope(query=b"token=abc"), Credential("abc", False)),
            (scope(query=b"a=b&token=a%2Bb%20c"), Credential("a+b c", False)),
            (scope(query=b"token="), Credential("", False)),
            (scope(query=b"token=first&token=last"), Credential("last", False)),
            (scope((b"authorization", b"Bearer abc"), query=b"token=x"), Credential("abc", True)),
            (
                scope((b"authorization", b"Basic x"), query=b"token=abc"),
                Credential("abc", False),
            ),
            (scope((b"authorization", b"Bearer \xff\x00")), Credential("\xff\x00", True)),
            (scope(query=b"a=&&token=x&b"), Credential("x", False)),
            (scope(query=b"a=token=x"), None),
            (scope(query=b"token=x&a=token=y"), Credential("x", False)),
            (scope(query=b"atoken=" * 10_000), None),
            (scope(query=b"token=%ff\xfe%00"), Credential("\ufffd\xfe\x00", False)),
        ],
    )
    def test_what_a_connection_brings(
        self, given: dict[str, Any], expected: Credential | None
    ) -> None:
        assert credential_in(given) == expected

    def test_a_scope_may_have_no_query(self) -> None:
        assert credential_in({"headers": []}) is None

    def test_its_repr_does_not_show_it(self) -> None:
        assert SECRET not in repr(in_header(SECRET))
        assert SECRET not in repr(Authenticated(Role.PEER, Peer(name="far", secret=SECRET)))


@db
class TestPeers:
    async def test_its_secret_makes_a_peer_and_only_the_header_is_greeted(self) -> None:
        peer = await create()
        own = await database_sync_to_async(server_id)()
        assert await authenticated(in_header(SECRET)) == Authenticated(Role.PEER, peer, own)
        assert await authenticated(Credential(SECRET, False)) == Authenticated(
            Role.PEER, peer, None
        )

    @pytest.mark.parametrize(
        "token", ["", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper(), "é☃", "\x00"]
    )
    async def test_another_secret_makes_none(self, token: str) -> None:
        await create()
        assert await authenticated(in_header(token)) == Rejected("wrong secret")

    async def test_no_secret_is_nobodys(self) -> None:
        await create(secret="")
        assert await authenticated(in_header("")) == Rejected("wrong secret")

    async def test_one_that_can_be_decrypted_no_more_is_nobodys(self) -> None:
        await create()
        with override_settings(SECRET_KEY="another-key"):
            for token in (SECRET, ""):
                assert await authenticated(in_header(token)) == Rejected("wrong secret")

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"enabled": False}, "peer 'far' is disabled"),
            ({"accept": False}, "peer 'far' is not accepted from"),
            ({"enabled": False, "accept": False}, "peer 'far' is disabled"),
        ],
    )
    async def test_each_refusal_has_its_own_word(self, row: dict[str, Any], reason: str) -> None:
        await create(**row)
        assert await authenticated(in_header(SECRET)) == Rejected(reason)

    async def test_of_two_rows_with_one_secret_the_one_that_is_accepted_from_counts(self) -> None:
        await create("one", accept=False)
        two = await create("two")
        answer = await authenticated(in_header(SECRET))
        assert isinstance(answer, Authenticated)
        assert answer.peer == two

    async def test_every_secret_is_compared_whichever_fits(self) -> None:
        for number in range(4):
            await create(f"far-{number}", secret=f"{OTHER}-{number}")
        counts = []
        for token in (f"{OTHER}-0", f"{OTHER}-3", "wrong"):
            with mock.patch(
                "dwsps_channels.peering.inbound.authentication.constant_time_compare",
                wraps=constant_time_compare,
            ) as compare:
                await authenticated(in_header(token))
            counts.append(compare.call_count)
        assert counts == [4, 4, 4]


@db
async def test_the_lengths_of_secrets_are_known() -> None:
    await create("one")
    await create("two", secret=SECRET + "-two", enabled=False)
    await create("three", secret="")
    lengths = await database_sync_to_async(secret_lengths)()
    assert lengths == {len(SECRET), len(SECRET) + 4}


@pytest.fixture
def waits() -> Iterator[list[float]]:
    """For how long refusals were held back, in place of doing it."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)
        clock.now += seconds

    clock = Clock()
    with mock.patch.object(credentials, "Throttle", partial(Throttle, clock, sleep)):
        yield found


@db
class TestConnections:
    async def test_a_peer_is_greeted_first_of_all_and_may_forward(self) -> None:
        await create()
        async with PubSubCommunicator(headers=bearer(SECRET)) as link, PubSubCommunicator() as one:
            hello = await link.receive_json_from(5)
            assert hello.keys() == {"type", "server", "server_id", "version"}
            assert hello["type"] == "hello"
            await one.subscribe("news")
            await link.send_json_to(
                {"type": "publish", "topic": "news", "message": 1, "fromPeerServer": True, "id": 1}
            )
            assert (await link.receive_json_from(5))["type"] == "ack"
            assert (await one.receive())["fromPeerServer"] is True

    async def test_a_peer_that_knows_no_other_way_comes_by_its_url_and_is_not_greeted(self) -> None:
        await create()
        async with PubSubCommunicator(path=f"/ws/pubsub/?token={SECRET}") as link:
            await link.send_json_to(
                {"type": "publish", "topic": "news", "message": 1, "fromPeerServer": True}
            )
            assert (await link.receive_json_from(5))["type"] == "ack"

    async def test_who_brings_nothing_is_a_client(self) -> None:
        async with PubSubCommunicator() as client:
            await client.send_json_to(
                {"type": "publish", "topic": "news", "message": 1, "fromPeerServer": True}
            )
            assert (await client.receive_json_from(5))["code"] == "forbidden"

    async def test_only_a_worker_may_request_the_feed(self) -> None:
        await create()
        feed = {"type": "feed", "cursor": "", "at": 2.0**40, "messages": 1, "size": 1}
        for headers, answer in (
            (bearer(await workers_credential()), "ack"),
            (bearer(await workers_credential(Purpose.PUBLISH)), "error"),
            (bearer(SECRET), "error"),
            ([], "error"),
        ):
            async with PubSubCommunicator(headers=headers) as client:
                await client.send_json_to(feed)
                frames = [await client.receive_json_from(5)]
                if frames[0]["type"] == "hello":
                    frames.append(await client.receive_json_from(5))
                assert frames[-1]["type"] == answer

    @pytest.mark.parametrize("by_url", [False, True])
    async def test_a_false_secret_is_refused_and_logged_without_it(
        self, by_url: bool, waits: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        path = "/ws/pubsub/" + (f"?token={OTHER}" if by_url else "")
        with pytest.raises(Closed):
            async with PubSubCommunicator(path=path, headers=[] if by_url else bearer(OTHER)):
                pass
        assert "refused: wrong secret" in caplog.text
        assert OTHER not in caplog.text
        assert waits == []

    async def test_who_fails_again_and_again_waits_for_the_answer(self, waits: list[float]) -> None:
        await create()
        # One runtime for all of them: it is what remembers.
        async with PubSubCommunicator():
            for number in range(FREE + 3):
                with pytest.raises(Closed):
                    async with PubSubCommunicator(headers=bearer(f"{OTHER}-{number}")):
                        pass
            assert waits == [0.25, 0.5, 1.0]
            # A worker has no turn to wait for, nor has a client without credentials.
            async with (
                PubSubCommunicator(headers=bearer(await workers_credential())),
                PubSubCommunicator(),
            ):
                pass
        assert len(waits) == 3

    async def test_many_at_once_are_turned_away_unexamined(
        self, waits: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        await create()

        async def is_refused(number: int) -> bool:
            try:
                async with PubSubCommunicator(headers=bearer(f"{OTHER}-{number}")):
                    return False
            except Closed:
                return True

        async with PubSubCommunicator():
            assert all(await asyncio.gather(*(is_refused(number) for number in range(30))))
        attempts = caplog.text.count("wrong secret")
        assert FREE < attempts < 10
        assert 0 < caplog.text.count("too many false credentials from this address") <= attempts

    async def test_a_token_by_which_the_project_knew_a_user_is_none_of_ours(self) -> None:
        headers = bearer(base64.b64encode(json.dumps({"user": 1}).encode()).decode())
        async with PubSubCommunicator(user=User(username="ada"), headers=headers) as client:
            await client.subscribe("news")

    async def test_nor_does_a_user_become_a_peer_by_it(self) -> None:
        await create()
        async with PubSubCommunicator(user=User(username="ada"), headers=bearer(SECRET)) as client:
            await client.send_json_to(
                {"type": "publish", "topic": "news", "message": 1, "fromPeerServer": True}
            )
            assert (await client.receive_json_from(5))["code"] == "forbidden"

    def test_what_everybody_has_is_a_clients(self) -> None:
        assert Authenticated(Role.CLIENT) == UNAUTHENTICATED
