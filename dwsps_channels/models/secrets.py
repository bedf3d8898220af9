"""The secrets of peers: what may be one, and new ones."""

import re
import secrets

from django.core.exceptions import ValidationError

from dwsps_channels.models.encryption import PREFIX

MIN_LENGTH = 16
MAX_LENGTH = 256

# What begins with it is taken for the credential of a worker (authentication.py), and never compared to a peer's.
WORKER_PREFIX = "worker."

# What an Authorization header can carry.
_ALLOWED = re.compile(r"[\x21-\x7e]*")


def generate() -> str:
    """A secret that nobody guesses: 256 bits."""
    return secrets.token_urlsafe(32)


def validate_secret(secret: str) -> None:
    """Raise ``ValidationError``, which does not repeat it, unless ``secret`` may be one that a person has set."""
    if len(secret) < MIN_LENGTH:
        raise ValidationError(
            f"a secret has at least {MIN_LENGTH} characters, best of all generated ones",
            code="too_short",
        )
    if len(secret) > MAX_LENGTH:
        raise ValidationError(f"a secret has at most {MAX_LENGTH} characters", code="too_long")
    if not _ALLOWED.fullmatch(secret):
        raise ValidationError(
            "a secret has no spaces, and only letters, digits and signs of ASCII", code="characters"
        )
    if secret.startswith((WORKER_PREFIX, PREFIX)):
        raise ValidationError(
            f"a secret does not begin with '{WORKER_PREFIX}' or '{PREFIX}'", code="prefix"
        )
