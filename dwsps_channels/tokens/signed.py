"""Tokens that this project signs: they name a user, expire, and end with the user's password."""

import logging
from datetime import timedelta
from hashlib import sha256
from time import time
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.signing import BadSignature, Signer
from django.utils.crypto import constant_time_compare

from dwsps_channels.core.authenticator import Authentication
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.tokens import PREFIX

logger = logging.getLogger("dwsps_channels.tokens")

_SALT: Final = "dwsps_channels.tokens.v1"


def make_token(user: Any, *, expires: float | timedelta = timedelta(hours=1)) -> str:
    """Make a token that tells a server that the client is ``user``. Nothing is stored.

    It ends after ``expires``, when the user's password changes, and when the user is deactivated or deleted.

    Args:
        user: a saved, active user of the project.
        expires: how long the token is valid, above 0: seconds, or a ``timedelta``.

    Returns:
        A string of visible ASCII characters, fit for a header and a URL.

    Raises:
        ValueError: ``user`` is anonymous, not saved or not active, or ``expires`` is not above 0.
    """
    if not getattr(user, "is_authenticated", False) or user.pk is None:
        raise ValueError("a token needs a saved user")
    if not user.is_active:
        raise ValueError("the user is not active")
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if seconds <= 0:
        raise ValueError("expires must be above 0")
    stated = {
        "user": user._meta.pk.value_to_string(user),
        "hash": _digest(user.get_session_auth_hash()),
        "expires": int(time() + seconds),
    }
    return PREFIX + _signer().sign_object(stated)


class SignedToken:
    """The authenticator for tokens of ``make_token``: ``DWSPS["AUTHENTICATOR"] = "dwsps_channels.tokens.SignedToken"``.

    A token that was signed with a key of ``SECRET_KEY_FALLBACKS`` is valid until it expires.
    """

    def __init__(self) -> None:
        self._throttle = LogThrottle()

    def __call__(self, token: str, scope: Any) -> Authentication | None:
        """Return the user that ``token`` names, and when it expires; ``None``: it is not valid, or not any more.

        Queries the database for the user, if the signature is right.
        """
        try:
            return _authenticate(token)
        except _Refused as refused:
            # Anybody can send any number of them.
            if self._throttle.is_due(str(refused)):
                logger.info("a token was refused: %s", refused)
            return None


class _Refused(Exception):
    """A token that is not valid. The text is the reason, for the log."""


def _authenticate(token: str) -> Authentication:
    if not token.startswith(PREFIX):
        raise _Refused(f"it does not begin with '{PREFIX}'")
    try:
        # Past this line it is known to be signed by this module.
        stated: dict[str, Any] = _signer().unsign_object(token.removeprefix(PREFIX))
    except (BadSignature, ValueError):
        raise _Refused("it was not signed by this project") from None
    if stated["expires"] <= time():
        raise _Refused("it has expired")
    users = get_user_model()
    try:
        user = users._default_manager.get(pk=stated["user"])
    except (users.DoesNotExist, ValueError, ValidationError):
        raise _Refused("its user does not exist") from None
    if not user.is_active:
        raise _Refused("its user is not active")
    if not _is_of_password(stated["hash"], user):
        raise _Refused("its user has another password")
    return Authentication(user, float(stated["expires"]))


def _is_of_password(digest: str, user: Any) -> bool:
    # The hash is made with SECRET_KEY, too. So a token outlives a new key only by that key's fallbacks.
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any([constant_time_compare(digest, _digest(each)) for each in hashes])


def _digest(session_auth_hash: str) -> str:
    # Half of a hash of the hash: a token does not carry what is in the user's sessions.
    return sha256(session_auth_hash.encode()).hexdigest()[:32]


def _signer() -> Signer:
    return Signer(salt=_SALT)
