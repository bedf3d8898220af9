"""The secrets of peers: their grammar, and a generator."""

import re
import secrets

from django.core.exceptions import ValidationError

from dwsps_channels.models.encryption import PREFIX
from dwsps_channels.protocol.tokens import is_signed

MIN_LENGTH = 16
MAX_LENGTH = 256

# The beginning of a worker's credential. The server never compares such a token to the peers' secrets.
WORKER_PREFIX = "worker."

# The characters that an Authorization header can carry.
_ALLOWED = re.compile(r"[\x21-\x7e]*")


def generate() -> str:
    """Return a new secret of 256 random bits."""
    return secrets.token_urlsafe(32)


def validate_secret(secret: str) -> None:
    """Raise ``ValidationError`` unless ``secret`` is well formed. The error does not repeat it."""
    if len(secret) < MIN_LENGTH:
        raise ValidationError(
            f"a secret has at least {MIN_LENGTH} characters; generate one if you can",
            code="too_short",
        )
    if len(secret) > MAX_LENGTH:
        raise ValidationError(f"a secret has at most {MAX_LENGTH} characters", code="too_long")
    if not _ALLOWED.fullmatch(secret):
        raise ValidationError(
            "a secret has only ASCII letters, digits and punctuation, and no spaces",
            code="characters",
        )
    if secret.startswith((WORKER_PREFIX, PREFIX)):
        raise ValidationError(
            f"a secret does not begin with '{WORKER_PREFIX}' or '{PREFIX}'", code="prefix"
        )
    if is_signed(secret):
        raise ValidationError("a secret does not have the form of a token", code="token")
