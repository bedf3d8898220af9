"""The peers of this server, and what the worker tells of them."""

from uuid import UUID, uuid4

from django.db import models

from dwsps_channels.encryption import EncryptedTextField


class Peer(models.Model):
    """Our side of the relation to another server; the other side decides its own."""

    name = models.CharField(max_length=64, unique=True)
    url = models.CharField(max_length=500)
    secret = EncryptedTextField(blank=True)
    enabled = models.BooleanField(default=True)
    forward = models.BooleanField(default=True)
    accept = models.BooleanField(default=True)

    def __str__(self) -> str:
        return self.name


class ServerIdentity(models.Model):
    """One row: what this server is to others, whatever it is called."""

    server_id = models.UUIDField(default=uuid4, editable=False)


def server_id() -> str:
    """This server's id, the same for all of its processes; made when it is first asked for."""
    identity, _ = ServerIdentity.objects.get_or_create(pk=1)
    value: UUID = identity.server_id
    return value.hex
