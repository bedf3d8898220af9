"""The template tags that give a page its websocket and its script."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID
from wsgiref.util import setup_testing_defaults

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieSession
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import Client, override_settings
from django.urls import set_script_prefix
from django.utils.functional import SimpleLazyObject

import dwsps_channels
from dwsps_channels.core.identity import Identity, hash_session_key
from dwsps_channels.core.policy import Decision
from dwsps_channels.core.revocations import Revocations
from dwsps_channels.grants import GrantChecker
from dwsps_channels.policies import AllowAll
from dwsps_channels.protocol.errors import Forbidden


def render(tag: str) -> str:
    return Template("{% load dwsps %}" + tag).render(Context())


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """Take back what a test, or the handler of a request, says of where the project is mounted."""
    yield
    set_script_prefix("/")


def test_url_is_a_path_which_the_browser_resolves_against_the_page() -> None:
    assert render("{% dwsps_url %}") == "/ws/pubsub/"


def test_url_takes_another_path() -> None:
    assert render('{% dwsps_url "/live/" %}') == "/live/"


def test_url_is_below_the_prefix_that_the_project_is_mounted_at() -> None:
    set_script_prefix("/app/")
    assert render("{% dwsps_url %}") == "/app/ws/pubsub/"
    assert render('{% dwsps_url "/live/" %}') == "/app/live/"


@pytest.mark.parametrize("path", ["live/", "", "//elsewhere.example/"])
def test_url_refuses_a_path_that_is_not_absolute(path: str) -> None:
    with pytest.raises(ValueError, match="must begin with one slash"):
        render(f'{{% dwsps_url "{path}" %}}')


@override_settings(DWSPS={"PUBLIC_URL": "wss://live.example.org/socket/?v=1"})
def test_url_is_the_public_one_where_there_is_one() -> None:
    set_script_prefix("/app/")
    assert render("{% dwsps_url %}") == "wss://live.example.org/socket/?v=1"
    assert render('{% dwsps_url "/live/" %}') == "wss://live.example.org/live/"


def test_script_is_the_static_url_of_the_client() -> None:
    assert render("{% dwsps_script %}") == "/static/dwsps_channels/dwsps.js"


@override_settings(STATIC_URL="https://static.example.org/")
def test_script_is_where_the_static_files_are() -> None:
    assert render("{% dwsps_script %}") == "https://static.example.org/dwsps_channels/dwsps.js"


def preloaded() -> list[str]:
    return re.findall(
        r'^<link rel="modulepreload" href="(.+)">$', render("{% dwsps_preload %}"), re.M
    )


@override_settings(STATIC_URL="https://static.example.org/a/")
def test_preload_names_the_client_and_its_parts() -> None:
    first, *parts = preloaded()
    folder = f"https://static.example.org/a/dwsps_channels/client-{dwsps_channels.__version__}/"
    assert first == render("{% dwsps_script %}")
    assert f"{folder}connection.js" in parts
    assert all(part.startswith(folder) for part in parts)


# The demo page, which may connect to where its websocket is and to nothing else.


def demo_page(scheme: str = "http", mounted_at: str = "") -> tuple[str, str]:
    """Give the URL that the page is told, and those that its Content-Security-Policy lets it connect to."""
    environ = {"HTTP_HOST": "example.org", "SCRIPT_NAME": mounted_at, "wsgi.url_scheme": scheme}
    setup_testing_defaults(environ)
    headers: dict[str, str] = {}

    def start_response(status: str, told: list[tuple[str, str]], *_: object) -> Any:
        headers.update(told)

    body = b"".join(WSGIHandler()(environ, start_response)).decode()
    [url] = re.findall(r'data-url="([^"]*)"', body)
    [allowed] = re.findall(r"connect-src ([^;]*);", headers["Content-Security-Policy"])
    return url, allowed


@pytest.mark.django_db  # a request looks after the connections that earlier tests have left
@override_settings(ALLOWED_HOSTS=["example.org"])
def test_demo_page_connects_to_where_it_came_from() -> None:
    assert demo_page() == ("/ws/pubsub/", "'self' ws://example.org/ws/pubsub/")
    assert demo_page("https") == ("/ws/pubsub/", "'self' wss://example.org/ws/pubsub/")
    mounted = demo_page(mounted_at="/app")
    assert mounted == ("/app/ws/pubsub/", "'self' ws://example.org/app/ws/pubsub/")


@pytest.mark.django_db
@override_settings(
    ALLOWED_HOSTS=["example.org"], DWSPS={"PUBLIC_URL": "wss://live.example.org/ws/pubsub/"}
)
def test_demo_page_connects_to_the_public_url() -> None:
    url = "wss://live.example.org/ws/pubsub/"
    assert demo_page() == (url, f"'self' {url}")


# Grants. The session of a test's request is a real one; what a grant is worth, tests/test_grants.py tells.


def page(user: Any = None, session: SessionBase | None = None) -> HttpRequest:
    request = HttpRequest()
    if user is not None:
        request.user = user
    if session is not None:
        request.session = session
    return request


def granted(tag: str, request: HttpRequest, **context: Any) -> str:
    return Template("{% load dwsps %}" + tag).render(RequestContext(request, context))


def allows(grant: str, topic: str, user: Any = None, session_key: str = "") -> bool:
    session = hash_session_key(session_key) if session_key else ""
    check = GrantChecker(AllowAll(), Revocations(3600)).check
    try:
        return check(Identity("1", user, session=session), topic, grant) is not False
    except Forbidden:
        return False


ADA = User(pk=1, username="ada", password="hash")
BOB = User(pk=2, username="bob", password="hash")


def test_grant_is_for_the_topic_of_its_levels_and_for_the_user() -> None:
    grant = granted('{% dwsps_grant "orders" order.pk %}', page(ADA), order={"pk": 42})

    assert allows(grant, "orders.42", ADA)
    assert allows(grant, "orders.42.items", ADA)
    assert not allows(grant, "orders", ADA)
    assert not allows(grant, "orders.42", BOB)


@pytest.mark.parametrize(
    ("tag", "topic"),
    [
        ('{% dwsps_grant "orders.open" 42 %}', "orders.open.42"),
        ("{% dwsps_grant topic %}", "news.uk"),
        ('{% dwsps_grant "jobs" job %}', "jobs.0b0c0d0e-0000-4000-8000-000000000000"),
        ('{% dwsps_grant "a" 0 %}', "a.0"),
        ('{% dwsps_grant "a" "é&<" %}', "a.é&<"),
    ],
)
def test_grant_takes_a_topic_and_further_levels(tag: str, topic: str) -> None:
    job = UUID("0b0c0d0e-0000-4000-8000-000000000000")

    assert allows(granted(tag, page(ADA), topic="news.uk", job=job), topic, ADA)


@override_settings(USE_THOUSAND_SEPARATOR=True, LANGUAGE_CODE="de")
def test_grant_writes_numbers_as_topics_have_them() -> None:
    grant = granted('{% dwsps_grant "orders" pk %}', page(ADA), pk=1_234_567)

    assert allows(grant, "orders.1234567", ADA)


@pytest.mark.parametrize(
    ("tag", "problem"),
    [
        ('{% dwsps_grant "orders" nothing.here %}', "argument 2 is ''"),
        ('{% dwsps_grant "orders" none %}', "argument 2 is None"),
        ('{% dwsps_grant "" %}', "argument 1 is ''"),
        ('{% dwsps_grant "orders" "4.2" %}', "a level has a dot"),
        ('{% dwsps_grant "orders" 4.2 %}', "a level has a dot"),
        ('{% dwsps_grant "or ders" %}', "the topic has a space"),
        ('{% dwsps_grant "orders" expires=0 %}', "more than 0"),
    ],
)
def test_grant_says_what_is_wrong_with_it(tag: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        granted(tag, page(ADA), none=None)


def test_grant_may_be_shorter() -> None:
    grant = granted('{% dwsps_grant "orders" expires=60 %}', page(ADA))

    decision = GrantChecker(AllowAll(), Revocations(3600)).check(
        Identity("1", ADA), "orders", grant
    )

    assert isinstance(decision, Decision)
    assert decision.recheck_after == pytest.approx(60, abs=5)


@pytest.mark.django_db
@pytest.mark.parametrize("user", [None, AnonymousUser()])
def test_grant_of_a_visitor_is_for_the_session_which_is_made(user: Any) -> None:
    session = SessionStore()
    session["cart"] = [7]

    grant = granted('{% dwsps_grant "orders" 42 %}', page(user, session))

    assert session.session_key is not None
    assert SessionStore(session.session_key)["cart"] == [7]
    assert session.modified  # so its cookie is sent
    assert allows(grant, "orders.42", AnonymousUser(), session.session_key)
    assert not allows(grant, "orders.42", AnonymousUser(), "another session")
    assert not allows(grant, "orders.42", ADA)


@pytest.mark.django_db
def test_grants_of_a_visitor_share_the_session() -> None:
    first, session = SessionStore(), SessionStore()
    first.create()
    session = SessionStore(first.session_key)

    grants = [granted(f'{{% dwsps_grant "a" {each} %}}', page(None, session)) for each in (1, 2)]

    assert session.session_key == first.session_key
    assert not session.modified
    assert all(
        allows(grant, f"a.{each}", session_key=session.session_key or "")
        for each, grant in enumerate(grants, 1)
    )


@pytest.mark.django_db
def test_grant_is_not_bound_to_a_session_that_is_gone() -> None:
    session = SessionStore("k3x0v6x1l0w5r3c4x7m8p9q2z1y6t5u4")

    grant = granted('{% dwsps_grant "orders" 42 %}', page(AnonymousUser(), session))

    assert session.session_key != "k3x0v6x1l0w5r3c4x7m8p9q2z1y6t5u4"
    assert allows(grant, "orders.42", session_key=session.session_key or "")


@pytest.mark.parametrize("request_", [page(), page(AnonymousUser()), page(None, CookieSession())])
def test_grant_needs_a_reader(request_: HttpRequest) -> None:
    with pytest.raises(ImproperlyConfigured, match="needs a user who is logged in, or a session"):
        granted('{% dwsps_grant "orders" 42 %}', request_)


def test_grant_needs_a_request() -> None:
    with pytest.raises(ImproperlyConfigured, match="render the template with a request"):
        render('{% dwsps_grant "orders" 42 %}')


async def test_grant_in_an_async_view_says_what_to_do_instead() -> None:
    request = page(SimpleLazyObject(lambda: User.objects.get(pk=1)), SessionStore())

    with pytest.raises(SynchronousOnlyOperation, match="make the grant in the view"):
        granted('{% dwsps_grant "orders" 42 %}', request)


@pytest.mark.django_db
@override_settings(ROOT_URLCONF="tests.grants.site")
def test_grant_of_a_visitors_page_comes_with_the_cookie_of_the_session() -> None:
    """By Django's own middleware, as under any WSGI server."""
    browser = Client()

    first, second = (browser.get(f"/order/{pk}/") for pk in (42, 43))

    key = first.cookies["sessionid"].value
    assert allows(first.content.decode(), "orders.42", AnonymousUser(), key)
    assert "Cookie" in first["Vary"]
    assert "sessionid" not in second.cookies
    assert allows(second.content.decode(), "orders.43", AnonymousUser(), key)
