"""A site whose pages publish durable messages and are killed on the way, for WSGI and ASGI servers."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.durable.site_settings")

from django.core.wsgi import get_wsgi_application

# Sets Django up, which must come before anything is imported that needs its models.
application = get_wsgi_application()

from django.http import HttpRequest, HttpResponse
from django.urls import path

from project.asgi import application as project_asgi
from tests.durable.crasher import apublish_and_die, publish_and_die

asgi: Any = project_asgi


def crash(request: HttpRequest, moment: str, number: int) -> HttpResponse:
    publish_and_die(number, moment)
    return HttpResponse("still alive", status=500)


async def acrash(request: HttpRequest, moment: str, number: int) -> HttpResponse:
    await apublish_and_die(number, moment)
    return HttpResponse("still alive", status=500)


urlpatterns = [
    path("crash/<slug:moment>/<int:number>", crash),
    path("acrash/<slug:moment>/<int:number>", acrash),
]
