"""``dwsps_channels.auth`` gives the same user as Channels' own, and asks nobody where there is none."""

from pathlib import Path
from typing import Any, cast

import channels.auth
import pytest
from asgiref.sync import sync_to_async
from channels.testing import HttpCommunicator, WebsocketCommunicator
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client, override_settings

from dwsps_channels import auth

STACKS = {"ours": auth.AuthMiddlewareStack, "Channels'": channels.auth.AuthMiddlewareStack}


async def user_of(stack: Any, cookies: dict[str, str]) -> Any:
    return (await scope_of(stack, cookies))["user"]


async def scope_of(stack: Any, cookies: dict[str, str], **given: Any) -> Any:
    found: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope)
        await send({"type": "websocket.accept"})

    communicator = WebsocketCommunicator(stack(application), "/", headers_with(cookies))
    cast(Any, communicator.scope).update(given)
    await communicator.connect(20)
    await communicator.wait(20)
    return found[0]


def headers_with(cookies: dict[str, str]) -> list[tuple[bytes, bytes]]:
    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return [(b"cookie", header.encode())] if cookies else []


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
@pytest.mark.django_db(transaction=True)
class TestUser:
    async def test_who_has_logged_in_is_known(self, stack: Any) -> None:
        ann = await User.objects.acreate(username="ann")
        assert await user_of(stack, await logged_in(ann)) == ann

    async def test_who_has_not_is_anonymous(self, stack: Any) -> None:
        user = await user_of(stack, {"theme": "dark"})
        assert user == AnonymousUser()
        assert not user.is_authenticated

    async def test_a_session_that_is_no_more_is_nobodys(self, stack: Any) -> None:
        user = await user_of(stack, {settings.SESSION_COOKIE_NAME: "x" * 32})
        assert user == AnonymousUser()

    async def test_a_user_that_is_known_already_stays(self, stack: Any) -> None:
        ann, bob = [await User.objects.acreate(username=name) for name in ("ann", "bob")]
        scope = await scope_of(stack, await logged_in(ann), user=bob)
        assert scope["user"] == bob

    async def test_a_user_is_known_by_http_too(self, stack: Any) -> None:
        ann = await User.objects.acreate(username="ann")
        found: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            found.append(scope["user"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        for cookies in (await logged_in(ann), {}):
            communicator = HttpCommunicator(
                stack(application), "GET", "/", headers=headers_with(cookies)
            )
            await communicator.get_response()
        assert found == [ann, AnonymousUser()]


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
@pytest.mark.django_db(transaction=True)
class TestScope:
    async def test_cookies_are_in_the_scope(self, stack: Any) -> None:
        assert (await scope_of(stack, {"theme": "dark"}))["cookies"] == {"theme": "dark"}
        assert (await scope_of(stack, {}))["cookies"] == {}

    async def test_the_session_is_in_the_scope(self, stack: Any) -> None:
        cookies = await logged_in(await User.objects.acreate(username="ann"))
        session = (await scope_of(stack, cookies))["session"]
        assert session.session_key == cookies[settings.SESSION_COOKIE_NAME]

    async def test_the_session_is_loaded_though_the_user_is_known(self, stack: Any) -> None:
        ann = await User.objects.acreate(username="ann")
        session = (await scope_of(stack, await logged_in(ann), user=ann))["session"]
        assert session[SESSION_KEY] == str(ann.pk)

    @pytest.mark.parametrize("cookies", [{}, {settings.SESSION_COOKIE_NAME: "short"}])
    async def test_a_client_without_one_has_a_new_session(
        self, stack: Any, cookies: dict[str, str]
    ) -> None:
        session = (await scope_of(stack, cookies))["session"]
        assert session.session_key is None
        session["theme"] = "dark"
        assert session["theme"] == "dark"

    async def test_the_session_of_a_middleware_around_it_counts(self, stack: Any) -> None:
        ann = await User.objects.acreate(username="ann")
        key = (await logged_in(ann))[settings.SESSION_COOKIE_NAME]
        session = SessionStore(key)
        scope = await scope_of(stack, {}, session=session)
        assert scope["session"] is session
        assert scope["user"] == ann


@pytest.mark.django_db(transaction=True)
class TestSession:
    @pytest.mark.parametrize(
        "engine", ["cache", "cached_db", "db", "file", "signed_cookies"], ids=str
    )
    async def test_every_engine_serves(self, engine: str, tmp_path: Path) -> None:
        with override_settings(
            SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}",
            SESSION_FILE_PATH=str(tmp_path),
        ):
            ann = await User.objects.acreate(username="ann")
            assert await user_of(auth.AuthMiddlewareStack, await logged_in(ann)) == ann

    async def test_a_backend_of_the_projects_finds_the_user(self) -> None:
        ann = await User.objects.acreate(username="ann")
        path = f"{__name__}.Renaming"
        with override_settings(AUTHENTICATION_BACKENDS=[path]):
            user = await user_of(auth.AuthMiddlewareStack, await logged_in(ann, path))
        assert user == ann
        assert user.username == "ann, by a backend of the project's"

    async def test_a_new_password_ends_the_session(self) -> None:
        ann = await User.objects.acreate(username="ann")
        cookies = await logged_in(ann)
        ann.set_password("another")
        await ann.asave()
        assert await user_of(auth.AuthMiddlewareStack, cookies) == AnonymousUser()

    async def test_a_fallback_key_counts_and_the_browser_keeps_its_session(self) -> None:
        """Django would give the session a new key, and this response cannot bring it to the browser."""
        ann = await User.objects.acreate(username="ann")
        cookies = await logged_in(ann)
        with override_settings(SECRET_KEY="new" * 20, SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
            for _ in range(2):
                assert await user_of(auth.AuthMiddlewareStack, cookies) == ann
        with override_settings(SECRET_KEY="new" * 20):
            assert await user_of(auth.AuthMiddlewareStack, cookies) == AnonymousUser()


class Renaming(ModelBackend):
    def get_user(self, user_id: Any) -> Any:
        user = super().get_user(user_id)
        if user is not None:
            user.username += ", by a backend of the project's"
        return user


async def logged_in(
    user: User, backend: str = "django.contrib.auth.backends.ModelBackend"
) -> dict[str, str]:
    """The cookies of a browser in which ``user`` has logged in."""
    client = Client()
    await sync_to_async(client.force_login)(user, backend)
    return {name: morsel.value for name, morsel in client.cookies.items()}


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
