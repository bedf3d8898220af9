"""Rows of durable messages as their process leaves them behind."""

from datetime import timedelta
from typing import Any

from django.db.models.functions import Now
from msgspec.json import encode

from dwsps_channels.models import DurableMessage


def leave(topic: str, message: Any = 1, *, age: float = 60.0, **fields: Any) -> DurableMessage:
    """Insert a message that was stored so many seconds ago, and is due."""
    return DurableMessage.objects.create(
        topic=topic,
        message=encode(message),
        timestamp="2026-01-21T17:03:13.625Z",
        **{
            "created_at": Now() - timedelta(seconds=age),
            "due_at": Now() - timedelta(seconds=age - 3.0),
            **fields,
        },
    )


def topics() -> list[str]:
    """The topics of what is stored, the oldest first."""
    return list(DurableMessage.objects.order_by("created_at").values_list("topic", flat=True))
