"""A site whose page publishes, for gunicorn."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.publishing.site_settings")

from django.core.wsgi import get_wsgi_application

# Sets Django up, which must come before anything is imported that needs its models.
application = get_wsgi_application()

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import path

from dwsps_channels import publish
from project.asgi import application as project_asgi

asgi: Any = project_asgi
"""The application for uvicorn in gunicorn: it has websockets, so its process is part of the server."""


def work(number: int) -> None:
    """Publish, and use the database before, after and, in other requests and tasks, meanwhile."""
    publish("news", [number, User.objects.count()])
    User.objects.count()


def page(request: HttpRequest) -> HttpResponse:
    work(int(request.GET["number"]))
    return HttpResponse("published")


urlpatterns = [path("", page)]

if "PUBLISH_BEFORE_FORK" in os.environ:
    publish("news", "before the fork")
