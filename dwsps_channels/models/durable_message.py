"""The messages that are to be published, whatever becomes of the process that wants it."""

from uuid import uuid4

from django.db import models


class DurableMessage(models.Model):
    """A message that was committed with the data that it tells of. It goes once the log has it."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    topic = models.CharField(max_length=255)
    message = models.BinaryField()
    """The JSON."""
    timestamp = models.CharField(max_length=40)
    """When it was published: RFC 3339."""
    created_at = models.DateTimeField(db_index=True)
    """By the database's clock."""
    attempts = models.PositiveIntegerField(default=0)
    """That failed."""
    last_error = models.CharField(max_length=500, blank=True)

    def __str__(self) -> str:
        return f"{self.topic} {self.id}"
