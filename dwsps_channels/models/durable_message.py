"""Messages that are stored until the log has them."""

from datetime import timedelta
from uuid import uuid4

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class DurableMessageQuerySet(models.QuerySet["DurableMessage"]):
    """Selections of durable messages, by the database's clock."""

    def due(self) -> "DurableMessageQuerySet":
        """Select the messages that the worker may publish."""
        return self.filter(due_at__lte=Now())

    def left(self) -> "DurableMessageQuerySet":
        """Select the messages that their process did not get published: those that are due, or were tried."""
        return self.filter(Q(due_at__lte=Now()) | Q(attempts__gt=0))

    def oldest_first(self) -> "DurableMessageQuerySet":
        """Order by age. Messages of one thread keep the order in which they were published, those with a key excepted."""
        return self.order_by("created_at", "id")

    def older_than(self, seconds: float) -> "DurableMessageQuerySet":
        """Select the messages that were stored more than so many seconds ago."""
        return self.filter(created_at__lt=Now() - timedelta(seconds=seconds))


class DurableMessage(models.Model):
    """A message of ``publish(…, durable=True)``, stored in the transaction of the data that it tells of.

    The process that stored it publishes it after the commit, and deletes the row. If it does not get to that, the worker
    does it.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    """The message's key for the log is made of it."""
    topic = models.CharField(max_length=255)
    message = models.BinaryField()
    """JSON."""
    timestamp = models.CharField(max_length=40)
    """When it was published: RFC 3339."""
    created_at = models.DateTimeField(db_default=Now())
    """By the database's clock."""
    due_at = models.DateTimeField(db_index=True)
    """When the worker may publish it, by the database's clock: until then it is its process's, or an attempt is under way."""
    attempts = models.PositiveIntegerField(default=0)
    """Attempts of the worker. They failed, or one is under way."""
    last_error = models.CharField(max_length=500, blank=True)
    """Why the last attempt failed."""

    objects = DurableMessageQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.topic} {self.id}"
