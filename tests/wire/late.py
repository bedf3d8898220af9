"""The demo project with a page that begins, waits for a file that the test makes, and then publishes on commit and disconnects a user."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from pathlib import Path
from time import monotonic, sleep

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from dwsps_channels import publish
from dwsps_channels.access import disconnect
from project.asgi import application
from project.urls import urlpatterns

__all__ = ["application"]


def late(request: HttpRequest) -> HttpResponse:
    folder = Path(os.environ["FOLDER"])
    with transaction.atomic():
        publish("news", "on commit")
        (folder / "begun").touch()
        deadline = monotonic() + 20
        while not (folder / "go").exists() and monotonic() < deadline:
            sleep(0.02)
    publish("news", "at once")
    disconnect(user=4711)
    return HttpResponse("done")


urlpatterns.append(path("late", late))
