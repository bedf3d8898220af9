"""A model field whose value is encrypted at rest, with keys derived from SECRET_KEY and its fallbacks."""

import base64
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db import models

# Not secret: they keep these keys apart from others that are derived from the same SECRET_KEY.
_INFO = b"dwsps_channels.encryption"


if TYPE_CHECKING:
    _TextField = models.TextField[str, str]
else:
    _TextField = models.TextField  # Django's own has no type parameters


class EncryptedTextField(_TextField):
    """Text that is plain in Python and encrypted in the database. What cannot be decrypted any more reads as empty."""

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return _fernet().encrypt(value.encode()).decode() if value else value

    def from_db_value(self, value: str | None, expression: object, connection: object) -> str | None:
        if not value:
            return value
        try:
            return _fernet().decrypt(value.encode()).decode()
        except InvalidToken:
            return ""


def _fernet() -> MultiFernet:
    return _fernet_of((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


@lru_cache(maxsize=4)
def _fernet_of(keys: tuple[str | bytes, ...]) -> MultiFernet:
    return MultiFernet([Fernet(_derived(key)) for key in keys])


def _derived(key: str | bytes) -> bytes:
    data = key.encode() if isinstance(key, str) else key
    return base64.urlsafe_b64encode(HKDF(SHA256(), 32, None, _INFO).derive(data))
