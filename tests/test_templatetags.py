"""The template tags that give a page its websocket and its script."""

import re
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.template import Context, Template
from django.test import override_settings
from django.urls import set_script_prefix

import dwsps_channels


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
