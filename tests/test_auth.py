"""``dwsps_channels.auth`` gives the same user as Channels' own, and asks nobody where there is none."""

from typing import Any

import channels.auth
import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client

from dwsps_channels import auth

STACKS = {"ours": auth.AuthMiddlewareStack, "Channels'": channels.auth.AuthMiddlewareStack}


async def user_of(stack: Any, cookies: dict[str, str]) -> Any:
    found: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["user"])
        await send({"type": "websocket.accept"})

    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    headers = [(b"cookie", header.encode())] if cookies else []
    communicator = WebsocketCommunicator(stack(application), "/", headers)
    await communicator.connect()
    await communicator.wait()
    return found[0]


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
@pytest.mark.django_db(transaction=True)
class TestUser:
    async def test_who_has_logged_in_is_known(self, stack: Any) -> None:
        ann = await User.objects.acreate(username="ann")
        client = Client()
        await sync_to_async(client.force_login)(ann)
        cookies = {name: morsel.value for name, morsel in client.cookies.items()}
        assert await user_of(stack, cookies) == ann

    async def test_who_has_not_is_anonymous(self, stack: Any) -> None:
        user = await user_of(stack, {"theme": "dark"})
        assert user == AnonymousUser()
        assert not user.is_authenticated

    async def test_a_session_that_is_no_more_is_nobodys(self, stack: Any) -> None:
        user = await user_of(stack, {settings.SESSION_COOKIE_NAME: "x" * 32})
        assert user == AnonymousUser()


def test_who_has_no_session_waits_for_nothing() -> None:
    """Neither for a thread nor for the database, which this test has none of."""
    users: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        users.append(scope["user"])

    connecting = auth.AuthMiddlewareStack(application)(
        {"type": "websocket", "path": "/", "headers": []}, None, None
    )
    with pytest.raises(StopIteration):
        connecting.send(None)
    assert users == [AnonymousUser()]
