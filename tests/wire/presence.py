"""The demo project with a receiver that tells everybody who has left."""

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from dwsps_channels import publish, signals
from tests.wire.lenient import application

__all__ = ["application"]


def tell(client: str, **kwargs: Any) -> None:
    publish("presence.left", client)


signals.disconnected.connect(tell)
