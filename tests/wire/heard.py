"""The demo project with a receiver that publishes below `heard` whatever a client has published."""

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from dwsps_channels import publish, signals
from project.asgi import application

__all__ = ["application"]


def tell(topic: str, message: object, **kwargs: Any) -> None:
    publish(f"heard.{topic}", message)


signals.published.connect(tell)
