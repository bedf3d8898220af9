"""The page's cursor: what the middleware notes, and what the template tag makes of it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.template import Context, RequestContext, Template
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path

from dwsps_channels import publish
from dwsps_channels.reading import api
from dwsps_channels.server import runtime
from dwsps_channels.testing import PubSubCommunicator, real_publishes
from tests.processes import HOST

TAG = Template("{% load dwsps %}{% dwsps_url %}")


def page(request: HttpRequest) -> HttpResponse:
    """Publish, as another request may do meanwhile, before the template is rendered."""
    publish("news", "meanwhile", on_commit=False)
    return HttpResponse(TAG.render(RequestContext(request)))


async def async_page(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(page)(request)


urlpatterns = [path("", page), path("async/", async_page)]

with_middleware = override_settings(
    ROOT_URLCONF=__name__, MIDDLEWARE=["dwsps_channels.middleware.CursorMiddleware"]
)


@pytest.fixture
async def server() -> AsyncIterator[runtime.Runtime]:
    """The server that the test's own process is."""
    async with PubSubCommunicator():
        yield await runtime.obtain()


@pytest.mark.parametrize("address", ["/", "/async/"])
@with_middleware
async def test_the_url_carries_the_cursor_of_the_requests_beginning(
    server: runtime.Runtime, address: str
) -> None:
    before = server.node.cursor
    response = await AsyncClient().get(address)
    assert response.content.decode() == f"/ws/pubsub/?since={before}"
    assert server.node.cursor != before


@with_middleware
async def test_a_synchronous_stack_in_a_thread_of_the_process_reads_the_same(
    server: runtime.Runtime,
) -> None:
    before = server.node.cursor
    response = await sync_to_async(Client().get)("/")
    assert response.content.decode() == f"/ws/pubsub/?since={before}"


@with_middleware
def test_in_tests_without_a_server_it_is_the_outboxs() -> None:
    assert Client().get("/").content == b"/ws/pubsub/?since=outbox:0"
    assert Client().get("/").content == b"/ws/pubsub/?since=outbox:1"


@with_middleware
def test_a_page_without_a_server_has_no_cursor() -> None:
    away = {"SERVER_URL": f"ws://{HOST}:1/"}

    def show(request: HttpRequest) -> HttpResponse:
        return HttpResponse(TAG.render(RequestContext(request)))

    from dwsps_channels.middleware import CursorMiddleware

    with real_publishes(), override_settings(DWSPS=away):
        response = CursorMiddleware(show)(RequestFactory().get("/"))
    assert isinstance(response, HttpResponse)
    assert response.content == b"/ws/pubsub/"


@override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[])
def test_without_the_middleware_the_url_is_as_it_was() -> None:
    assert Client().get("/").content == b"/ws/pubsub/"


def render(tag: str, **context: Any) -> str:
    request = RequestFactory().get("/")
    request.dwsps_cursor = "e:7"  # type: ignore[attr-defined]
    return Template("{% load dwsps %}" + tag).render(RequestContext(request, context))


def test_a_page_may_start_from_another_cursor() -> None:
    assert render("{% dwsps_url %}") == "/ws/pubsub/?since=e:7"
    assert render("{% dwsps_url since=cursor %}", cursor="e:8") == "/ws/pubsub/?since=e:8"
    assert render('{% dwsps_url "/live/" since=cursor %}', cursor="e:8") == "/live/?since=e:8"
    assert render('{% dwsps_url since="" %}') == "/ws/pubsub/"


def test_a_cursor_is_escaped() -> None:
    assert render("{% dwsps_url since=cursor %}", cursor="a&b#c") == "/ws/pubsub/?since=a%26b%23c"


@override_settings(DWSPS={"PUBLIC_URL": "wss://live.example.org/socket/?v=1"})
def test_a_public_url_keeps_its_query() -> None:
    assert render("{% autoescape off %}{% dwsps_url %}{% endautoescape %}") == (
        "wss://live.example.org/socket/?v=1&since=e:7"
    )


@override_settings(
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
)
def test_no_context_processor_is_needed() -> None:
    assert render("{% dwsps_url %}") == "/ws/pubsub/?since=e:7"
    assert render("{% include part only %}", part=TAG) == "/ws/pubsub/?since=e:7"


def test_a_request_may_be_in_the_context_alone() -> None:
    request = RequestFactory().get("/")
    request.dwsps_cursor = "e:7"  # type: ignore[attr-defined]
    assert TAG.render(Context({"request": request})) == "/ws/pubsub/?since=e:7"


def test_a_template_without_a_request_has_no_cursor() -> None:
    assert TAG.render(Context()) == "/ws/pubsub/"


def test_a_page_waits_shortly() -> None:
    with override_settings(DWSPS={"PUBLISH_TIMEOUT": 0.1}):
        assert api._cursor_timeout() == 0.1
    assert api._cursor_timeout() == api.CURSOR_TIMEOUT
