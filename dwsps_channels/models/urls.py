"""The URLs of peers: their grammar, and the token that some have in their query.

The peers of a dwsps 1.0.1 server are plain URLs, ``ws://example.org/?token=…``. Here the token is a secret: it is
stored apart from the URL, and put back when a link connects.
"""

import re
import socket
from urllib.parse import quote, unquote_plus, urlsplit

from django.core.exceptions import ValidationError

from dwsps_channels.client.address import Address, is_link_local

TOKEN = "token"

# Names that suggest a credential. Only ``token`` is taken out of the URL; any other would be shown.
_CREDENTIAL = re.compile(
    r"token|secret|passw|pwd|passphrase|auth|credential|signature|api.?key|^key$|^sig$", re.I
)


def split_token(url: str) -> tuple[str, str | None]:
    """Split ``url`` into the URL without its ``token``, and the token or ``None``. Never raises, whatever the text is."""
    before, question_mark, rest = url.partition("?")
    query, hash_mark, fragment = rest.partition("#")
    kept, token = [], None
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if unquote_plus(name) == TOKEN:
            token = unquote_plus(value)
        else:
            kept.append(part)
    if token is None:
        return url, None
    left = "&".join(kept)
    return before + (question_mark + left if left else "") + hash_mark + fragment, token


def with_token(url: str, token: str) -> str:
    """Return ``url`` with ``token`` in its query."""
    return f"{url}{'&' if '?' in url else '?'}{TOKEN}={quote(token, safe='')}"


def server_of(url: str) -> str:
    """Return scheme, host and port of ``url``, which identify a server: a secret is bound to them. Never raises."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"ws": 80, "wss": 443}.get(parts.scheme, 0)
        return f"{parts.scheme}://{parts.hostname or ''}:{port}"
    except ValueError:
        return url


def validate_url(url: str) -> None:
    """Raise ``ValidationError`` unless a link may connect to ``url``. The error repeats nothing secret."""
    without_token, _ = split_token(url)
    try:
        parts = urlsplit(without_token)
        if parts.scheme not in ("ws", "wss"):
            raise ValidationError("a peer's URL begins with ws:// or wss://", code="scheme")
        if "@" in parts.netloc:
            raise ValidationError(
                "the URL must not contain a user or a password: use the secret", code="userinfo"
            )
        if "#" in without_token:
            raise ValidationError("a peer's URL has no fragment (#…)", code="fragment")
        Address.parse(without_token)
    except ValidationError:
        raise
    except ValueError:
        raise ValidationError("this is not the URL of a websocket", code="url") from None
    for part in filter(None, parts.query.split("&")):
        name = unquote_plus(part.partition("=")[0])
        if _CREDENTIAL.search(name):
            raise ValidationError(
                "'%(name)s' looks like a credential, and would be shown: use the secret, or 'token'",
                code="credential",
                params={"name": name},
            )
    if _is_link_local(parts.hostname or ""):
        raise ValidationError("the URL must not lead to a link-local address", code="link_local")


def _is_link_local(host: str) -> bool:
    """Check ``host`` without a DNS look-up; a link checks again with one whenever it connects."""
    try:
        return is_link_local(host)
    except ValueError:
        pass
    try:
        # 2852039166 and 0xa9fea9fe are addresses too, for resolvers.
        return is_link_local(socket.inet_ntoa(socket.inet_aton(host)))
    except (OSError, ValueError):
        return False
