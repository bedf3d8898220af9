"""A site whose page shows what was stored, and whose other pages store and publish meanwhile."""

import os
import random
import time
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.reading.site_settings")

from django.core.wsgi import get_wsgi_application

# Sets Django up, which must come before anything is imported that needs its models.
application = get_wsgi_application()

from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.urls import path

from dwsps_channels import history, publish
from dwsps_channels.reading import api
from project.asgi import application as project_asgi

asgi: Any = project_asgi

# Have pages wait for their cursor as long as for anything else.
setattr(api, "CURSOR_TIMEOUT", 60)  # noqa: B010  (it is final)

# Seconds that a view may take between one step and the next: others publish then.
PAUSE = 0.01

URL = Template("{% load dwsps %}{% dwsps_url %}")
URL_SINCE = Template("{% load dwsps %}{% dwsps_url since=since %}")
PAGE = Template(
    """{% load dwsps %}<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<body data-url="{% dwsps_url since=since %}" data-script="{% dwsps_script %}" data-stored="{{ stored }}">
<script type="module">
const { url, script, stored } = document.body.dataset
const { PSClient } = await import(script)
globalThis.came = []
globalThis.resets = 0
const client = new PSClient(url)
client.subscribe('news', ({ message }) => came.push(message))
client.on('reset', () => resets++)
</script>
"""
)


def pause() -> None:
    time.sleep(random.uniform(0, PAUSE))


def add(request: HttpRequest) -> HttpResponse:
    """Store the next number, and publish it."""
    with transaction.atomic():
        number = User.objects.count() + 1
        User.objects.create(username=str(number))
        publish("news", number)
    return JsonResponse({"number": number})


def stored() -> int:
    """Read how many numbers there are, as a view that takes its time."""
    pause()
    count = User.objects.count()
    pause()
    return count


def index(request: HttpRequest) -> HttpResponse:
    """Give the number of the last that is stored, and the address for what comes after it."""
    return JsonResponse({"stored": stored(), "url": URL.render(RequestContext(request))})


def recent(request: HttpRequest) -> HttpResponse:
    """Give the last ten numbers of the history, and the address for what comes after them."""
    found = history("news", last=10)
    pause()
    url = URL_SINCE.render(RequestContext(request, {"since": found.cursor}))
    return JsonResponse({"shown": [each.message for each in found.messages], "url": url})


def page(request: HttpRequest) -> HttpResponse:
    """Give the page for a browser; with `?blind` without a cursor."""
    since = "" if "blind" in request.GET else None
    context = {"stored": stored(), "since": since}
    return HttpResponse(PAGE.render(RequestContext(request, context)))


urlpatterns = [
    path("", index),
    path("add/", add),
    path("page/", page),
    path("recent/", recent),
]
