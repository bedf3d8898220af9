"""What a page needs to reach this server: `{% load dwsps %}`.

A page hands both to its module through data attributes, so that no script has to be inline:

    <body data-url="{% dwsps_url %}" data-script="{% dwsps_script %}">
    <script type="module" src="{% static 'page.js' %}"></script>

and `page.js` begins with

    const { url, script } = document.body.dataset
    const { PSClient } = await import(script)
    const client = new PSClient(url)
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import Context, Library
from django.templatetags.static import static

register = Library()

# Where `dwsps_channels.routing.websocket_urlpatterns` puts the websocket.
DEFAULT_PATH = "/ws/pubsub/"

SCRIPT = "dwsps_channels/dwsps.js"


def websocket_url(request: HttpRequest, path: str = DEFAULT_PATH) -> str:
    """Give the websocket URL of the server that answers this request.

    It is `wss` where the page came by HTTPS: a browser refuses anything else. Behind a proxy that
    ends TLS, Django knows that by `SECURE_PROXY_SSL_HEADER`.

    Args:
        request: whose host, as checked against `ALLOWED_HOSTS`, is the websocket's.
        path: absolute; give it where the project routes the websocket to another place.

    Raises:
        ValueError: the path does not begin with one slash.
        DisallowedHost: the request's host is not one of this site's.
    """
    if not path.startswith("/") or path.startswith("//"):
        raise ValueError(f"the websocket's path must begin with one slash: {path!r}")
    scheme = "wss" if request.is_secure() else "ws"
    return f"{scheme}://{request.get_host()}{path}"


@register.simple_tag(takes_context=True)
def dwsps_url(context: Context, path: str = DEFAULT_PATH) -> str:
    """Write the websocket's URL: `{% dwsps_url %}`, or `{% dwsps_url "/live/" %}`.

    Raises:
        ImproperlyConfigured: the template is rendered without its request.
    """
    request = context.get("request")
    if not isinstance(request, HttpRequest):
        raise ImproperlyConfigured(
            "{% dwsps_url %} needs the request: render the template with it, and have "
            "'django.template.context_processors.request' among the context processors"
        )
    return websocket_url(request, path)


@register.simple_tag
def dwsps_script() -> str:
    """Write the URL of the browser client, an ES module that exports `PSClient`."""
    return static(SCRIPT)
