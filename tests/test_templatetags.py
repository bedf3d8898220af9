"""The template tags that give a page its websocket and its script."""

from collections.abc import Iterator

import pytest
from django.core.exceptions import DisallowedHost, ImproperlyConfigured
from django.template import Context, Template
from django.test import RequestFactory, override_settings


@pytest.fixture(autouse=True)
def hosts() -> Iterator[None]:
    with override_settings(ALLOWED_HOSTS=["example.org"]):
        yield


def render(tag: str, *, secure: bool = False, host: str = "example.org", proto: str = "") -> str:
    headers = {"host": host, "x-forwarded-proto": proto}
    request = RequestFactory().get("/", headers=headers, secure=secure)
    return Template("{% load dwsps %}" + tag).render(Context({"request": request}))


def test_url_is_that_of_the_host_which_serves_the_page() -> None:
    assert render("{% dwsps_url %}") == "ws://example.org/ws/pubsub/"
    assert render("{% dwsps_url %}", host="example.org:8000") == "ws://example.org:8000/ws/pubsub/"


def test_url_is_secure_where_the_page_is() -> None:
    assert render("{% dwsps_url %}", secure=True) == "wss://example.org/ws/pubsub/"


@override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
def test_url_is_secure_behind_a_proxy_that_says_so() -> None:
    url = render("{% dwsps_url %}", proto="https")
    assert url == "wss://example.org/ws/pubsub/"


def test_url_takes_another_path() -> None:
    assert render('{% dwsps_url "/live/" %}') == "ws://example.org/live/"


@pytest.mark.parametrize("path", ["live/", "", "//elsewhere.example/"])
def test_url_refuses_a_path_that_is_not_absolute(path: str) -> None:
    with pytest.raises(ValueError, match="must begin with one slash"):
        render(f'{{% dwsps_url "{path}" %}}')


def test_url_refuses_a_host_that_is_not_ours() -> None:
    with pytest.raises(DisallowedHost):
        render("{% dwsps_url %}", host="elsewhere.example")


def test_url_says_what_to_do_where_the_template_has_no_request() -> None:
    template = Template("{% load dwsps %}{% dwsps_url %}")
    with pytest.raises(ImproperlyConfigured, match=r"context_processors\.request"):
        template.render(Context())


def test_script_is_the_static_url_of_the_client() -> None:
    assert render("{% dwsps_script %}") == "/static/dwsps_channels/dwsps.js"


@override_settings(STATIC_URL="https://static.example.org/")
def test_script_is_where_the_static_files_are() -> None:
    assert render("{% dwsps_script %}") == "https://static.example.org/dwsps_channels/dwsps.js"
