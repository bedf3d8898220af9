"""The check of a page's origin.

A browser lets any page open a websocket to any host, with the user's cookies, and sends the page's origin. The origin is
compared exactly: scheme, host and port. A client without an origin is no browser, and cannot abuse the cookies of others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from dwsps_channels.protocol.origins import Origin, is_origin, parse

# A host name has at most 253. A longer one is not parsed: ``urlsplit`` takes time for it, and keeps it in a cache.
MAX_CHARACTERS = 300

_WHEN_DEBUGGING = [".localhost", "127.0.0.1", "[::1]"]


def refusal(scope: Mapping[str, Any], allowed: Sequence[str] | None) -> str | None:
    """Return why the page that asks for this connection may not have it; ``None``: it may, or the client is no page.

    Args:
        scope: the ASGI scope of a websocket connection.
        allowed: the origins that may connect, ``*`` for any; ``None``: only the one that the connection is made to.
    """
    headers = dict(scope["headers"])
    if b"origin" not in headers:
        return None
    size = len(headers[b"origin"])
    if size > MAX_CHARACTERS:
        return f"its origin has {size} characters, and none has more than {MAX_CHARACTERS}"
    text = headers[b"origin"].decode("latin-1")
    if allowed is not None:
        if "*" in allowed or (is_origin(text) and parse(text) in map(parse, allowed)):
            return None
        return f"origin {text!r} is not in DWSPS['ALLOWED_ORIGINS']"
    if not is_origin(text):
        return f"origin {text!r} is not the server's own"
    return _refusal_of_another_site(parse(text), headers, scope)


def _refusal_of_another_site(
    origin: Origin, headers: Mapping[bytes, bytes], scope: Mapping[str, Any]
) -> str | None:
    """Return why ``origin`` is not the site that this connection was made to; ``None``: it is."""
    asked_for = _asked_for(headers)
    if len(asked_for) > MAX_CHARACTERS:
        return f"the requested host has {len(asked_for)} characters"
    host, _ = split_domain_port(asked_for)
    allowed_hosts = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed_hosts:
        allowed_hosts = _WHEN_DEBUGGING
    # Without this any name that an attacker points at this server would be its own origin.
    if not (host and validate_host(host, allowed_hosts)):
        return f"the requested host, {asked_for!r}, is not in ALLOWED_HOSTS"
    scheme = _scheme(headers, scope) or origin.scheme
    own = f"{scheme}://{asked_for}"
    if not is_origin(own) or parse(own) != origin:
        return f"origin {str(origin)!r} is not the server's own, {own!r}"
    return None


def _asked_for(headers: Mapping[bytes, bytes]) -> str:
    """Return the host, and the port if there is one, that the client asked for, as ``HttpRequest.get_host`` does."""
    forwarded = b"x-forwarded-host"
    trusted = settings.USE_X_FORWARDED_HOST and forwarded in headers
    host = headers.get(forwarded if trusted else b"host", b"").decode("latin-1").lower()
    port = headers.get(b"x-forwarded-port", b"").decode("latin-1")
    if settings.USE_X_FORWARDED_PORT and port.isdecimal() and split_domain_port(host)[1] == "":
        return f"{host}:{port}"
    return host


def _scheme(headers: Mapping[bytes, bytes], scope: Mapping[str, Any]) -> str | None:
    """Return the scheme by which the client reached the site; ``None``: unknown (Daphne gives none)."""
    if settings.SECURE_PROXY_SSL_HEADER:
        name, secure = settings.SECURE_PROXY_SSL_HEADER
        header = name.removeprefix("HTTP_").replace("_", "-").lower().encode()
        if header in headers:
            told = headers[header].decode("latin-1").split(",")[0].strip()
            return "https" if told == secure else "http"
    scheme = scope.get("scheme")
    return {"ws": "http", "wss": "https"}.get(scheme) if scheme else None
