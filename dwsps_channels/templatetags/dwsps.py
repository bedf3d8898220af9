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

from urllib.parse import urljoin

from django.template import Library
from django.templatetags.static import static
from django.urls import get_script_prefix

from dwsps_channels.conf import conf

register = Library()

# Where `dwsps_channels.routing.websocket_urlpatterns` puts the websocket.
DEFAULT_PATH = "/ws/pubsub/"

SCRIPT = "dwsps_channels/dwsps.js"


@register.simple_tag(name="dwsps_url")
def websocket_url(path: str | None = None) -> str:
    """Write where the page finds the websocket: `{% dwsps_url %}`, or `{% dwsps_url "/live/" %}`.

    By default it is a path, below the prefix that the project is mounted at: the browser client takes host and scheme
    from the page. `DWSPS["PUBLIC_URL"]` names another address; a path given here then replaces the path of that.

    Args:
        path: absolute, without the prefix; give it if the project routes the websocket to another place.

    Raises:
        ValueError: the path does not begin with one slash.
    """
    if path is not None and (not path.startswith("/") or path.startswith("//")):
        raise ValueError(f"the websocket's path must begin with one slash: {path!r}")
    if conf.PUBLIC_URL is not None:
        return conf.PUBLIC_URL if path is None else urljoin(conf.PUBLIC_URL, path)
    return get_script_prefix() + (path or DEFAULT_PATH).removeprefix("/")


@register.simple_tag
def dwsps_script() -> str:
    """Write the URL of the browser client, an ES module that exports `PSClient`."""
    return static(SCRIPT)
