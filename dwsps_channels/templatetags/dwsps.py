"""Template tags for pages that connect to this server: `{% load dwsps %}`.

A page passes the two addresses to its module in data attributes, so that no script has to be inline:

    {% dwsps_preload %}
    <script type="module" src="{% static 'page.js' %}"></script>
    …
    <body data-url="{% dwsps_url %}" data-script="{% dwsps_script %}">

and `page.js` begins with

    const { url, script } = document.body.dataset
    const { PSClient } = await import(script)
    const client = new PSClient(url)

`{% dwsps_preload %}` may be left out: it only saves time. With `CursorMiddleware` the URL carries the page's cursor.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urljoin

from django.contrib.staticfiles.storage import staticfiles_storage
from django.template import Context, Library
from django.templatetags.static import static
from django.urls import get_script_prefix
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

import dwsps_channels
from dwsps_channels.conf import conf

register = Library()

# Where `dwsps_channels.routing.websocket_urlpatterns` puts the websocket.
DEFAULT_PATH = "/ws/pubsub/"

SCRIPT = "dwsps_channels/dwsps.js"
# The folder of the modules that it imports, seen from it.
PARTS = f"client-{dwsps_channels.__version__}"


@register.simple_tag(takes_context=True)
def dwsps_url(context: Context, path: str | None = None, *, since: str | None = None) -> str:
    """Write where the page finds the websocket, and from which cursor its first subscriptions start.

    `{% dwsps_url %}`, or `{% dwsps_url "/live/" %}`, or `{% dwsps_url since=history.cursor %}`. The cursor is the one that
    `CursorMiddleware` has noted; without that middleware there is no cursor.

    Args:
        path: see `websocket_url`.
        since: a cursor to start from instead, such as that of a `History` which the page shows; empty: from now on.
    """
    url = websocket_url(path)
    if since is None:
        # The context knows it without a context processor, and inside of `{% include … only %}`.
        request = getattr(context, "request", None) or context.get("request")
        since = getattr(request, "dwsps_cursor", "")
    if not since:
        return url
    address, mark, fragment = url.partition("#")
    # A colon needs no escape in a query, and the URL stays readable.
    return (
        f"{address}{'&' if '?' in address else '?'}since={quote(since, safe=':')}{mark}{fragment}"
    )


def websocket_url(path: str | None = None) -> str:
    """Return where pages find the websocket.

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


@register.simple_tag
def dwsps_preload() -> SafeString:
    """Write `<link rel="modulepreload">` for each module of the browser client, for the page's head.

    With it, the browser fetches all of them while it fetches the page's own script. Without it, it learns of the first
    when that script runs, and of the others from the first.
    """
    urls = [dwsps_script(), *_part_urls()]
    return format_html_join("\n", '<link rel="modulepreload" href="{}">', ((url,) for url in urls))


def _part_urls() -> list[str]:
    """Give the URLs that a browser makes of the relative imports in the script."""
    folder = Path(dwsps_channels.__file__).with_name("static") / "dwsps_channels" / PARTS
    names = sorted(path.name for path in folder.glob("*.js"))
    if getattr(staticfiles_storage, "support_js_module_import_aggregation", False):
        # The storage has written its own names into the script.
        return [static(f"dwsps_channels/{PARTS}/{name}") for name in names]
    return [urljoin(dwsps_script(), f"{PARTS}/{name}") for name in names]
