"""The peers of this server, what the worker tells of them, and what all processes of the server share."""

from typing import Any
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models, router, transaction
from django.db.models import Case, F, Value, When
from django.utils import timezone

from dwsps_channels.models.encryption import EncryptedTextField, Stored, Unreadable, decrypt
from dwsps_channels.models.secrets import validate_secret
from dwsps_channels.models.urls import server_of, split_token, validate_url, with_token
from dwsps_channels.peering.outbound.link_status import LinkState
from dwsps_channels.protocol import topics as core_topics
from dwsps_channels.protocol.errors import InvalidTopic


def validate_topics(text: str) -> None:
    """Raise ``ValidationError``, naming the first line that is no topic."""
    for topic in _lines(text):
        try:
            core_topics.check(topic)
        except InvalidTopic as error:
            raise ValidationError(
                "'%(topic)s' %(problem)s",
                code="topic",
                params={"topic": topic, "problem": error.problem},
            ) from error


_BOUND = "a secret is bound to its row: set it on a peer, and save that"


class PeerQuerySet(models.QuerySet["Peer"]):
    """Rows that remember, whoever changes them, since when they are forwarded to."""

    def update(self, **values: Any) -> int:
        """As Django's, which no signal tells of and no ``save`` sees: does what ``Peer.save`` does beside."""
        if values.get("secret"):
            raise TypeError(_BOUND)
        if Peer.MATTERS.isdisjoint(values):
            return super().update(**values)
        now = timezone.now()
        # In front of the rest: MySQL takes the assignments one after the other, and this asks for the old values.
        also: dict[str, Any] = {"revision": F("revision") + 1, "updated_at": now}
        if values.get("enabled") or values.get("forward"):
            forwarding = When(enabled=True, forward=True, then=F("enabled_at"))
            also["enabled_at"] = Case(forwarding, default=Value(now))
        return super().update(**{**also, **values})

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_update(self, objs: Any, fields: Any, *args: Any, **kwargs: Any) -> int:
        """As Django's, without the secrets."""
        if "secret" in fields:
            raise TypeError(_BOUND)
        return super().bulk_update(objs, fields, *args, **kwargs)

    bulk_update.alters_data = True  # type: ignore[attr-defined]

    def enable(self) -> int:
        """Enable those that are not; how many that were."""
        return self.filter(enabled=False).update(enabled=True)

    enable.alters_data = True  # type: ignore[attr-defined]

    def disable(self) -> int:
        """Disable those that are not; how many that were."""
        return self.filter(enabled=True).update(enabled=False)

    disable.alters_data = True  # type: ignore[attr-defined]


class Peer(models.Model):
    """Our side of the relation to another server; the other side decides its own.

    A ``?token=`` in the URL is taken out of it when the row is saved, and kept as the secret.

    The secret is for one server: if the scheme, the host or the port of the URL changes, it has to be set again.
    ``save`` raises ``ValidationError`` if it was not; after an ``update`` that changes them it is unreadable.
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
        help_text="Where its websocket is: wss://example.org/ws/pubsub/, or ws:// within your own network.",
    )
    secret = EncryptedTextField(blank=True, validators=[validate_secret])
    secret_in_url = models.BooleanField(
        "send the secret in the URL",
        default=False,
        help_text="As ?token=…, and in no header: for servers that know no other way. Elsewhere leave it off: it may "
        "end up in logs, and a server of this kind does not say who it is to a peer that comes so.",
    )
    dwsps = models.BooleanField(
        "dwsps 1.0.1 server",
        default=False,
        help_text="The one under Node: it takes what is sent to it without a secret, and greets nobody. It needs one "
        "only to send to us, in its URL of this server.",
    )
    uid = models.UUIDField(default=uuid4, editable=False, unique=True)
    """What the secret is bound to, with the address."""
    enabled = models.BooleanField(
        default=True, help_text="If not, nothing goes to it and nothing comes from it."
    )
    forward = models.BooleanField(
        "send to it", default=True, help_text="What is published here goes to it."
    )
    accept = models.BooleanField(
        "accept from it",
        default=True,
        help_text="With the secret, it may send what is published there.",
    )
    topics = models.TextField(
        blank=True,
        validators=[validate_topics],
        help_text="What is sent to it, one topic a line, each with its sub-topics. Empty: everything.",
    )
    enabled_at = models.DateTimeField(default=timezone.now, editable=False)
    """Since when it is forwarded to, if it is: what was published before is not for it."""
    revision = models.PositiveBigIntegerField(default=1, editable=False)
    """Grows with every change of what matters to connections."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = PeerQuerySet.as_manager()

    MATTERS = frozenset(
        {
            *("name", "url", "secret", "secret_in_url", "dwsps"),
            *("enabled", "forward", "accept", "topics"),
        }
    )
    """The fields that connections depend on."""

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def shown_url(self) -> str:
        """The URL, for people."""
        return split_token(self.url)[0]

    @property
    def connect_url(self) -> str:
        """The URL to connect to, which may hold the secret."""
        return with_token(self.url, self.secret) if self.secret_in_url and self.secret else self.url

    @property
    def topic_list(self) -> tuple[str, ...]:
        """The topics that are forwarded; empty: all."""
        return tuple(_lines(self.topics))

    @property
    def forwards(self) -> bool:
        """Whether a link to it is to be kept."""
        return self.enabled and self.forward

    @property
    def lacks_secret(self) -> bool:
        """Whether it has none, and needs one: it would let us in as an ordinary client, and take no message."""
        return not self.secret and not self.dwsps and not self.has_lost_secret

    @property
    def has_lost_secret(self) -> bool:
        """Whether it has a secret that no key decrypts any more: nobody can use it."""
        return isinstance(self.secret, Unreadable)

    def clean_fields(self, exclude: Any = None) -> None:
        # Before the fields are looked at, so that the token is, as any secret.
        self._take_token()
        super().clean_fields(exclude)

    def clean(self) -> None:
        self.topics = "\n".join(dict.fromkeys(_lines(self.topics)))
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
        taken = self._take_token()
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            # Locked, so that of two who save at once each counts.
            rows = Peer.objects.using(using).select_for_update()
            before = rows.filter(pk=self.pk).first()
            self._check_secret(before)
            noted = self._take_note(before)
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], *taken, *noted}
            super().save(**kwargs)

    def _take_note(self, before: "Peer | None") -> set[str]:
        """Set what follows from the change since ``before``, the row as it is; the names of these fields."""
        if before is None:
            return set()
        self.revision, self.enabled_at = before.revision, before.enabled_at
        if any(getattr(self, field) != getattr(before, field) for field in self.MATTERS):
            self.revision += 1
        if self.forwards and not before.forwards:
            self.enabled_at = timezone.now()
        # The ciphertext is bound to the address: one is not written without the other.
        moved = {"url", "secret"} if server_of(self.url) != server_of(before.url) else set()
        return {"revision", "enabled_at", "updated_at", *moved}

    def _check_secret(self, before: "Peer | None") -> None:
        """Raise ``ValidationError`` if the secret of ``before``, the row as it is, were sent to another server."""
        if (
            before is not None
            and type(self.secret) is Stored
            and server_of(self.url) != server_of(before.url)
        ):
            raise ValidationError(
                {
                    "secret": ValidationError(
                        "the address has changed: give the secret once more, it is not sent to another server",
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
        """What the secret is bound to: see ``EncryptedTextField``."""
        return f"{self.uid.hex} {server_of(self.url)}".encode(errors="surrogatepass")

    def _take_token(self) -> set[str]:
        """Have a token in the URL as the secret; the names of the fields that were set."""
        self.url, token = split_token(self.url)
        if not token:
            return set()
        self.secret, self.secret_in_url = token, True
        return {"url", "secret", "secret_in_url"}


class PeerStatus(models.Model):
    """How the link to a peer is: written by the worker, every second or so, and by nobody else."""

    peer = models.OneToOneField(
        Peer, on_delete=models.CASCADE, primary_key=True, related_name="status"
    )
    state = models.CharField(
        max_length=16,
        choices=[(state.value, state.label) for state in LinkState],
        default=LinkState.CONNECTING.value,
    )
    since = models.DateTimeField(null=True)
    """When the state was entered."""
    seen_at = models.DateTimeField(null=True)
    """When the worker last told of it."""
    last_error = models.CharField(max_length=500, blank=True)
    round_trip = models.FloatField(null=True)
    """Seconds."""
    forwarded = models.PositiveBigIntegerField(default=0)
    acked = models.PositiveBigIntegerField(default=0)
    queued = models.PositiveBigIntegerField(default=0)
    dropped = models.PositiveBigIntegerField(default=0)
    resent = models.PositiveBigIntegerField(default=0)
    cursor = models.JSONField(default=dict, blank=True)
    """``{origin: id}``: up to where the peer has acknowledged."""

    class Meta:
        verbose_name_plural = "peer statuses"

    def __str__(self) -> str:
        return f"what the worker tells of {self.peer.name}"


class ServerIdentity(models.Model):
    """One row: what this server is to others, whatever it is called."""

    server_id = models.UUIDField(default=uuid4, editable=False)

    class Meta:
        verbose_name_plural = "server identities"

    def __str__(self) -> str:
        return self.server_id.hex


class WorkerLease(models.Model):
    """What one worker has at a time, and only for so long."""

    name = models.CharField(max_length=64, primary_key=True)
    holder = models.CharField(max_length=64, blank=True)
    expires_at = models.DateTimeField()
    """By the database's clock."""

    def __str__(self) -> str:
        return self.name


def server_id() -> str:
    """This server's id, the same for all of its processes; made when it is first asked for."""
    identity, _ = ServerIdentity.objects.get_or_create(pk=1)
    value: UUID = identity.server_id
    return value.hex


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
