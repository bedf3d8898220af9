"""The demo project's one page."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dwsps_channels.templatetags.dwsps import websocket_url


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the page to try the server on."""
    response = render(request, "project/page.html")
    response["Content-Security-Policy"] = content_security_policy(request)
    return response


def content_security_policy(request: HttpRequest) -> str:
    """Allow what the page is made of and nothing inline: what it shows came from strangers."""
    directives = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        # Not every browser takes 'self' to mean the websocket of the same host.
        "connect-src": f"'self' {absolute_websocket_url(request)}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def absolute_websocket_url(request: HttpRequest) -> str:
    """Give the address that the page resolves `{% dwsps_url %}` to."""
    url = request.build_absolute_uri(websocket_url())
    return "ws" + url.removeprefix("http") if url.startswith("http") else url
