"""A model field whose text is encrypted at rest, with keys derived from SECRET_KEY and its fallbacks."""

import base64
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db import models

# Not secret: they keep these keys apart from all others that are derived from the same SECRET_KEY.
_SALT = b"dwsps_channels"
_INFO = b"dwsps_channels.encryption.v1"

PREFIX = "fernet:"
"""What is encrypted begins with it, in the database and in what ``dumpdata`` writes."""


class Unreadable(str):
    """Text that can be decrypted no more: reads as empty, and is written back as it was found.

    So nothing is lost when a key that was taken away comes back, and nothing ever equals it but no text at all.
    """

    stored: str

    def __new__(cls, stored: str) -> "Unreadable":
        self = super().__new__(cls, "")
        self.stored = stored
        return self

    def __repr__(self) -> str:
        return "<unreadable>"


if TYPE_CHECKING:
    _TextField = models.TextField[str, str]
else:
    _TextField = models.TextField  # Django's own has no type parameters


class EncryptedTextField(_TextField):
    """Text that is plain in Python and encrypted everywhere else: in the database, and in fixtures.

    It is encrypted anew, with the key of today, whenever it is written, and so never equals itself: it cannot be
    looked up. What no key decrypts reads as ``Unreadable``.
    """

    def get_prep_value(self, value: Any) -> Any:
        return encrypt(super().get_prep_value(value))

    def from_db_value(
        self, value: str | None, expression: object, connection: object
    ) -> str | None:
        return decrypt(value)

    def value_to_string(self, obj: models.Model) -> Any:
        """For fixtures, which are files that lie around."""
        return encrypt(self.value_from_object(obj))

    def to_python(self, value: Any) -> Any:
        """Takes what a fixture has, too."""
        value = super().to_python(value)
        if isinstance(value, str) and value.startswith(PREFIX):
            return decrypt(value)
        return value

    def get_lookup(self, lookup_name: str) -> Any:
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None


def encrypt(text: str | None) -> str | None:
    """As it is stored; no text stays none."""
    if isinstance(text, Unreadable):
        return text.stored
    return PREFIX + _fernet().encrypt(text.encode()).decode() if text else text


def decrypt(stored: str | None) -> str | None:
    """The text that ``stored`` was made of, or ``Unreadable``."""
    if not stored:
        return stored
    if stored.startswith(PREFIX):
        try:
            return _fernet().decrypt(stored.removeprefix(PREFIX)).decode()
        except (InvalidToken, ValueError):  # the latter: not even ASCII
            pass
    return Unreadable(stored)


def _fernet() -> MultiFernet:
    return _fernet_of((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


@lru_cache(maxsize=4)
def _fernet_of(keys: tuple[str | bytes, ...]) -> MultiFernet:
    """Encrypts with the first, and decrypts with any."""
    return MultiFernet([Fernet(_derived(key)) for key in keys])


def _derived(key: str | bytes) -> bytes:
    data = key.encode() if isinstance(key, str) else key
    return base64.urlsafe_b64encode(HKDF(SHA256(), 32, _SALT, _INFO).derive(data))
