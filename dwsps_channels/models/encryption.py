"""Encryption at rest, with keys derived from SECRET_KEY and its fallbacks.

A text is bound to a context, its row: the ciphertext of one row is unreadable in another, or after the row's address has
changed.
"""

import base64
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

# Not secret: they separate these keys from all others that are derived from the same SECRET_KEY.
_SALT = b"dwsps_channels"
_INFO = b"dwsps_channels.encryption.v2"

PREFIX = "aesgcm:"
"""The beginning of every encrypted text, in the database and in what ``dumpdata`` writes."""

# The size for AES-GCM. Random nonces are safe for billions of texts with one key.
_NONCE_BYTES = 12


class Stored(str):
    """Text that was read from the database. Text that a program has set is an ordinary ``str``."""

    __slots__ = ()


class Unreadable(str):
    """Text that no key decrypts. It reads as empty, and is written back unchanged.

    So nothing is lost: if the key comes back, the text is readable again. Only an empty text equals it.
    """

    stored: str

    def __new__(cls, stored: str) -> "Unreadable":
        self = super().__new__(cls, "")
        self.stored = stored
        return self

    def __repr__(self) -> str:
        return "<unreadable>"


def encrypt(text: str, context: bytes) -> str:
    """Return ``text`` as it is stored."""
    nonce = os.urandom(_NONCE_BYTES)
    sealed = nonce + _ciphers()[0].encrypt(nonce, text.encode(), context)
    return PREFIX + base64.urlsafe_b64encode(sealed).decode()


def decrypt(stored: str, context: bytes) -> str:
    """Return the text that was encrypted in the same context, or ``Unreadable``. Empty text stays empty."""
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
    """Make a cipher for each key. The first one encrypts; all of them decrypt."""
    return tuple(AESGCM(_derived(key)) for key in keys)


def _derived(key: str | bytes) -> bytes:
    data = key.encode() if isinstance(key, str) else key
    return HKDF(SHA256(), 32, _SALT, _INFO).derive(data)
