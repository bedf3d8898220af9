"""docs/how-to/tokens.md: its recipes, tried as written."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import jwt
import pytest
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import path
from websockets.exceptions import InvalidStatus

from dwsps_channels.tokens import SignedToken
from tests.howto.conftest import MakeProject
from tests.howto.pages import Page
from tests.howto.project import Program, Project
from tests.processes import HOST, wait_until
from tests.wire.client import RECEIVE_TIMEOUT, WireClient, connected

# Of a project as Django starts it, as far as they matter to a view.
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
PASSWORD = "a-long-password"
MIGRATE = (
    "from django.core.management import call_command\n"
    "call_command('migrate', verbosity=0)\n"
    "from django.contrib.auth.models import User\n"
    "for name in ('ada', 'bob'):\n"
    "    user = User.objects.get(username=name)\n"
    f"    user.set_password({PASSWORD!r})\n"
    "    user.save()\n"
)
DEACTIVATE = (
    "from django.contrib.auth.models import User\n"
    "user = User.objects.get(username={name!r})\n"
    "user.is_active = False\n"
    "user.save()\n"
)


def begin(make_project: MakeProject, recipe: str, settings: str = "") -> tuple[Project, Program]:
    """Follow a recipe until its server runs; `settings` are added to its own."""
    project = make_project(Page.read("tokens").section(recipe))
    project.write("myproject/settings.py", settings, append=True)
    assert "python manage.py migrate" in project.page.commands
    project.shell(MIGRATE)
    return project, project.start("python manage.py runserver")


def post(url: str, token: str = "", **fields: str) -> Any:
    """Send a form, and give the answer, or None for an empty one."""
    headers = {"Authorization": f"Token {token}"} if token else {}
    with urlopen(Request(url, urlencode(fields).encode(), headers), timeout=20) as answer:
        return json.loads(answer.read() or "null")


@asynccontextmanager
async def arriving(project: Project, token: str) -> AsyncIterator[WireClient]:
    """A connection with a token in its header."""
    url = f"ws://{HOST}:{project.port(8000)}/ws/pubsub/"
    headers = {"Authorization": f"Bearer {token}"}
    async with connected(url, additional_headers=headers) as client:
        yield client


async def assert_refused(project: Project, *tokens: str) -> None:
    for token in tokens:
        with pytest.raises(InvalidStatus) as refusal:
            async with arriving(project, token):
                pass
        assert refusal.value.response.status_code == 403, token


async def assert_closed(client: WireClient) -> None:
    async with asyncio.timeout(RECEIVE_TIMEOUT):
        await client.connection.wait_closed()
    assert client.connection.close_code == 4001


async def test_a_token_of_django_rest_framework_counts_until_the_logout(
    make_project: MakeProject,
) -> None:
    project, _ = begin(make_project, "Django REST framework")
    ada, bob = (
        post(project.url("/api/token/"), username=name, password=PASSWORD)["token"]
        for name in ("ada", "bob")
    )
    async with arriving(project, ada) as adas, arriving(project, bob) as bobs:
        for client in (adas, bobs):
            await client.subscribe("news")
        await adas.publish_and_receive("news", 1)
        assert (await bobs.receive())["message"] == 1

        post(project.url("/api/logout/"), token=bob)
        await assert_closed(bobs)
        await adas.publish_and_receive("news", 2)

        project.shell(DEACTIVATE.format(name="ada"))
        await assert_closed(adas)
    await assert_refused(project, ada, bob, f"{ada[:-1]}-")


@pytest.mark.django_db
def test_a_page_on_another_host_gets_a_token_with_its_cookie() -> None:
    view: dict[str, Any] = {"__name__": "myproject.tokens"}
    exec(Page.read("tokens").section("Give out tokens").files["myproject/tokens.py"], view)
    urls = (path("api/token/", view["token"]),)
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=MIDDLEWARE):
        browser = Client(enforce_csrf_checks=True, headers={"Origin": "https://app.example.com"})
        assert browser.post("/api/token/").status_code == 401
        browser.force_login(User.objects.create_user("ann"))
        answer = browser.post("/api/token/")
        found = SignedToken()(answer.json()["token"], {})
    assert found is not None
    assert found.user.username == "ann"
    assert "no-store" in answer.headers["Cache-Control"]


def altered(token: str) -> str:
    """The token with another signature. The last character would not do: it has bits that stand for nothing."""
    return f"{token[:-2]}{'B' if token[-2] == 'A' else 'A'}{token[-1]}"


def unsigned(token: str) -> str:
    """The same statements, as a token that says that it needs no signature."""
    head = urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{head}.{token.split('.')[1]}."


async def test_access_tokens_of_simplejwt_are_renewed_and_end(make_project: MakeProject) -> None:
    # Long enough for a busy machine to use a token, and to renew it.
    project, server = begin(
        make_project, "SimpleJWT", 'SIMPLE_JWT["ACCESS_TOKEN_LIFETIME"] = timedelta(seconds=8)\n'
    )
    watch = project.start("python watch.py bob", ready="subscribed")
    login = {"username": "ada", "password": PASSWORD}
    both = post(project.url("/api/token/"), **login)
    access, refresh = both["access"], both["refresh"]
    stated = jwt.decode(access, options={"verify_signature": False})
    forged = jwt.encode(
        {**stated, "exp": stated["exp"] + 3600}, "a key of somebody else's, long enough"
    )
    await assert_refused(project, refresh, forged, unsigned(access), altered(access))

    access = post(project.url("/api/token/"), **login)["access"]
    async with arriving(project, access) as client:
        # Nobody renews this one.
        assert (await client.receive())["type"] == "expiring"
        assert (await client.receive())["code"] == "unauthorized"
        await assert_closed(client)
    await assert_refused(project, access)

    # The first for the connection, and those before it expires.
    wait_until(lambda: server.log.count("/api/token/refresh/") >= 3, 30, "renewals")
    assert server.log.count("WebSocket CONNECT") == 2  # the program's, and the one above
    project.shell("from dwsps_channels import publish; publish('news', 'still here')")
    wait_until(lambda: "still here" in watch.log, 20, "a message")

    project.shell(DEACTIVATE.format(name="bob"))
    wait_until(lambda: "log in again: forbidden" in watch.log, 20, "the end of its user")
    assert watch.wait() == 0
