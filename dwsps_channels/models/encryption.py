"""A model field whose text is encrypted at rest, with keys derived from SECRET_KEY and its fallbacks.

It is bound to its row: the ciphertext of one row, or of the same row with another address, is unreadable.
"""

import base64
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db import models

# Not secret: they keep these keys apart from all others that are derived from the same SECRET_KEY.
_SALT = b"dwsps_channels"
_INFO = b"dwsps_channels.encryption.v2"

PREFIX = "aesgcm:"
"""What is encrypted begins with it, in the database and in what ``dumpdata`` writes."""

# What AES-GCM takes. It is random: with one key that is safe for billions of texts.
_NONCE_BYTES = 12


class Stored(str):
    """Text as it was read from the database. A text that was set is an ordinary ``str``."""

    __slots__ = ()


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
    """Text that is plain in instances and encrypted everywhere else: in the database, and in fixtures.

    Its model has a method ``encryption_context``, which gives what the text is bound to as bytes, and decrypts in
    ``from_db``. The text is encrypted again, with the key of today, whenever an instance is saved; it cannot be looked
    up, nor set by ``update``, which knows no instance. What no key decrypts reads as ``Unreadable``.
    """

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return self._encrypted(model_instance, super().pre_save(model_instance, add))

    def value_to_string(self, obj: models.Model) -> Any:
        """For fixtures, which are files that lie around."""
        return self._encrypted(obj, self.value_from_object(obj))

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        if isinstance(value, Unreadable):
            return value.stored
        if value and not value.startswith(PREFIX):
            raise TypeError(
                f"'{self.name}' is bound to its row: set it on an instance, and save that"
            )
        return value

    def get_lookup(self, lookup_name: str) -> Any:
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None

    def _encrypted(self, instance: Any, value: str | None) -> str | None:
        # What a fixture has is encrypted already, and bound to the row that it came from.
        if not value or isinstance(value, Unreadable) or value.startswith(PREFIX):
            return value
        return encrypt(value, instance.encryption_context())


def encrypt(text: str, context: bytes) -> str:
    """As it is stored."""
    nonce = os.urandom(_NONCE_BYTES)
    sealed = nonce + _ciphers()[0].encrypt(nonce, text.encode(), context)
    return PREFIX + base64.urlsafe_b64encode(sealed).decode()


def decrypt(stored: str, context: bytes) -> str:
    """The text that ``stored`` was made of, in the same context, or ``Unreadable``. No text stays none."""
    if not stored:
        return stored
    try:
        if not stored.startswith(PREFIX):
            raise ValueError
        sealed = base64.urlsafe_b64decode(stored.removeprefix(PREFIX).encode("ascii"))
    except ValueError:
        return Unreadable(stored)
    nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    for cipher in _ciphers():
        try:
            return Stored(cipher.decrypt(nonce, text, context).decode())
        except (InvalidTag, ValueError):
            pass
    return Unreadable(stored)


def _ciphers() -> tuple[AESGCM, ...]:
    return _ciphers_of((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


@lru_cache(maxsize=4)
def _ciphers_of(keys: tuple[str | bytes, ...]) -> tuple[AESGCM, ...]:
    """The first is for encrypting, and each for decrypting."""
    return tuple(AESGCM(_derived(key)) for key in keys)


def _derived(key: str | bytes) -> bytes:
    data = key.encode() if isinstance(key, str) else key
    return HKDF(SHA256(), 32, _SALT, _INFO).derive(data)
