"""The peers of this server."""

from typing import Any
from uuid import uuid4

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models, router, transaction
from django.db.models import Case, F, Value, When
from django.utils import timezone

from dwsps_channels.models.encryption import Stored, Unreadable, decrypt
from dwsps_channels.models.fields import EncryptedTextField
from dwsps_channels.models.secrets import validate_secret
from dwsps_channels.models.topics import split_topics, validate_topics
from dwsps_channels.models.urls import server_of, split_token, validate_url, with_token

_BOUND = "a secret is bound to its row: set it on a peer, and save that"


class PeerQuerySet(models.QuerySet["Peer"]):
    """Peers. Changing many at once keeps ``enabled_at`` right, and cannot set secrets."""

    def update(self, **values: Any) -> int:
        """Update as Django does, and set ``enabled_at`` of those that are now forwarded to and were not before.

        Raises:
            TypeError: ``values`` has a secret.
        """
        if values.get("secret"):
            raise TypeError(_BOUND)
        if values.get("enabled") or values.get("forward"):
            forwarding = When(enabled=True, forward=True, then=F("enabled_at"))
            # First, as MySQL makes the assignments in order, and this one reads the old values.
            values = {"enabled_at": Case(forwarding, default=Value(timezone.now())), **values}
        return super().update(**values)

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_update(self, objs: Any, fields: Any, *args: Any, **kwargs: Any) -> int:
        """Update as Django does.

        Raises:
            TypeError: ``fields`` has the secret.
        """
        if "secret" in fields:
            raise TypeError(_BOUND)
        return super().bulk_update(objs, fields, *args, **kwargs)

    bulk_update.alters_data = True  # type: ignore[attr-defined]

    def forwarding(self) -> "PeerQuerySet":
        """Select the peers that messages are forwarded to."""
        return self.filter(enabled=True, forward=True)

    def enable(self) -> int:
        """Enable the disabled ones; return how many that were."""
        return self.filter(enabled=False).update(enabled=True)

    enable.alters_data = True  # type: ignore[attr-defined]

    def disable(self) -> int:
        """Disable the enabled ones; return how many that were."""
        return self.filter(enabled=True).update(enabled=False)

    disable.alters_data = True  # type: ignore[attr-defined]


class Peer(models.Model):
    """One side of the relation of two servers: this server's. The other server has a row for its side.

    Saving a row extracts a ``?token=`` from the URL and stores it as the secret.

    The secret is for one server. If the scheme, the host or the port of the URL changes, the secret has to be set again:
    otherwise ``save`` raises ``ValidationError``, and after an ``update`` the secret is unreadable.
    """

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[
            RegexValidator(
                r"\A[A-Za-z0-9._-]{1,64}\Z",
                "a name has 1 to 64 ASCII letters, digits, '.', '-' or '_'",
            )
        ],
    )
    url = models.CharField(
        "URL",
        max_length=500,
        validators=[validate_url],
        help_text="The URL of its websocket: wss://example.org/ws/pubsub/, or ws:// within your own network.",
    )
    secret = EncryptedTextField(blank=True, validators=[validate_secret])
    secret_in_url = models.BooleanField(
        "send the secret in the URL",
        default=False,
        help_text="As ?token=…, and not in a header: for servers that cannot read headers. The URL may end up in logs, and "
        "the other server does not say who it is, so leave this off for all others.",
    )
    dwsps = models.BooleanField(
        "dwsps 1.0.1 server",
        default=False,
        help_text="The server for Node. It accepts messages without a secret and sends no greeting. It needs a secret "
        "only to send to this server: in the URL by which it connects.",
    )
    uid = models.UUIDField(default=uuid4, editable=False, unique=True)
    """The encrypted secret is bound to it, and to the address."""
    enabled = models.BooleanField(
        default=True, help_text="If off, nothing is sent to it and nothing is accepted from it."
    )
    forward = models.BooleanField(
        "send to it", default=True, help_text="Send it what is published on this server."
    )
    accept = models.BooleanField(
        "accept from it",
        default=True,
        help_text="Accept what is published there, if it presents the secret.",
    )
    topics = models.TextField(
        blank=True,
        validators=[validate_topics],
        help_text="Send only these topics and their sub-topics, one topic a line. Empty: send everything.",
    )
    enabled_at = models.DateTimeField(default=timezone.now, editable=False)
    """The time since which messages are forwarded to it, if they are. Earlier messages are not for it."""

    objects = PeerQuerySet.as_manager()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def shown_url(self) -> str:
        """The URL without the secret."""
        return split_token(self.url)[0]

    @property
    def connect_url(self) -> str:
        """The URL to connect to, which may contain the secret."""
        return with_token(self.url, self.secret) if self.secret_in_url and self.secret else self.url

    @property
    def topic_list(self) -> tuple[str, ...]:
        """The topics that are forwarded; empty: all."""
        return tuple(split_topics(self.topics))

    @property
    def forwards(self) -> bool:
        """Return whether messages are forwarded to it."""
        return self.enabled and self.forward

    @property
    def lacks_secret(self) -> bool:
        """Return whether it has no secret and needs one: it would take us for an ordinary client, and reject messages."""
        return not self.secret and not self.dwsps and not self.has_lost_secret

    @property
    def has_lost_secret(self) -> bool:
        """Return whether it has a secret that no key decrypts."""
        return isinstance(self.secret, Unreadable)

    def clean_fields(self, exclude: Any = None) -> None:
        # Before the fields are validated, so that the token is validated as the secret.
        self._extract_token()
        super().clean_fields(exclude)

    def clean(self) -> None:
        self.topics = "\n".join(split_topics(self.topics))
        if self.lacks_secret:
            raise ValidationError(
                {
                    "secret": ValidationError(
                        "a peer needs a secret, the same on both sides; only a dwsps 1.0.1 server does without",
                        code="required",
                    )
                }
            )
        if not self._state.adding:
            self._check_secret(Peer.objects.filter(pk=self.pk).first())

    def save(self, **kwargs: Any) -> None:
        extracted = self._extract_token()
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            # Locked, so that concurrent saves see each other's changes.
            rows = Peer.objects.using(using).select_for_update()
            before = rows.filter(pk=self.pk).first()
            self._check_secret(before)
            stamped = self._stamp_changes(before)
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], *extracted, *stamped}
            super().save(**kwargs)

    def _stamp_changes(self, before: "Peer | None") -> set[str]:
        """Set ``enabled_at`` by the changes since ``before``, the stored row; return the fields to write with them."""
        if before is None:
            return set()
        started = self.forwards and not before.forwards
        self.enabled_at = timezone.now() if started else before.enabled_at
        # The ciphertext is bound to the address, so they are written together.
        moved = {"url", "secret"} if server_of(self.url) != server_of(before.url) else set()
        return {"enabled_at", *moved}

    def _check_secret(self, before: "Peer | None") -> None:
        """Raise ``ValidationError`` if the secret of ``before``, the stored row, would be sent to another server."""
        if (
            before is not None
            and type(self.secret) is Stored
            and server_of(self.url) != server_of(before.url)
        ):
            raise ValidationError(
                {
                    "secret": ValidationError(
                        "the address has changed: set the secret again, as it is not sent to another server",
                        code="address",
                    )
                }
            )

    @classmethod
    def from_db(cls, db: Any, field_names: Any, values: Any, **kwargs: Any) -> "Peer":
        peer: Peer = super().from_db(db, field_names, values, **kwargs)
        if "secret" in field_names:
            peer.secret = decrypt(peer.secret, peer.encryption_context())
        return peer

    def encryption_context(self) -> bytes:
        """Return what the secret is bound to: see ``EncryptedTextField``."""
        return f"{self.uid.hex} {server_of(self.url)}".encode(errors="surrogatepass")

    def _extract_token(self) -> set[str]:
        """Move a token in the URL to the secret; return the names of the changed fields."""
        self.url, token = split_token(self.url)
        if not token:
            return set()
        self.secret, self.secret_in_url = token, True
        return {"url", "secret", "secret_in_url"}
