"""The identity of this server among its peers."""

from uuid import UUID, uuid4

from django.db import models


class ServerIdentity(models.Model):
    """The server's id, in the only row of its table. It stays if the server is renamed or moved."""

    server_id = models.UUIDField(default=uuid4, editable=False)

    class Meta:
        verbose_name_plural = "server identities"

    def __str__(self) -> str:
        return self.server_id.hex


def server_id() -> str:
    """Return this server's id, 32 hex digits, the same in all of its processes. The first call creates it."""
    identity, _ = ServerIdentity.objects.get_or_create(pk=1)
    value: UUID = identity.server_id
    return value.hex
