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
`{% dwsps_grant "orders" order.pk %}` signs that the page's reader may subscribe to `orders.42`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.template import Context, Library
from django.templatetags.static import static
from django.urls import get_script_prefix
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

import dwsps_channels
from dwsps_channels.conf import conf
from dwsps_channels.grants import make_grant

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
        since = getattr(_request_in(context), "dwsps_cursor", "")
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


@register.simple_tag(takes_context=True)
def dwsps_grant(
    context: Context, topic: str, *levels: object, expires: float | timedelta | None = None
) -> str:
    """Write a grant for the page's reader: the right to subscribe to a topic and what is below it.

    `{% dwsps_grant "orders" order.pk %}` is for `orders.42`. The policy is not asked about it, so use it only in a page
    whose view has decided that its reader may see this. It is for the user who is logged in; for a visitor it is bound to
    the session. If the visitor has no session, one is created.

    Args:
        topic: the topic, or its beginning.
        levels: further levels, of which none has a dot.
        expires: seconds, or a `timedelta`; see `make_grant`.

    Raises:
        ValueError: a level is missing, or the topic or the expiry is wrong.
        ImproperlyConfigured: the page has neither a user nor a session.
    """
    names = [_level(topic, 1), *(_level(each, place) for place, each in enumerate(levels, 2))]
    if any("." in name for name in names[1:]):
        raise ValueError(f"{{% dwsps_grant %}}: a level has a dot, in {names!r}")
    request = _request_in(context)
    if request is None:
        raise ImproperlyConfigured(
            "{% dwsps_grant %} is for the page's reader: render the template with a request"
        )
    try:
        return make_grant(".".join(names), request=request, expires=expires)
    except SynchronousOnlyOperation as error:
        raise SynchronousOnlyOperation(
            "{% dwsps_grant %} looks up the user, or makes a session. In an async view, render in a thread, as with "
            "sync_to_async(render), or make the grant in the view: make_grant(topic, user=await request.auser())"
        ) from error


def _level(value: object, place: int) -> str:
    # A variable that is not in the context is an empty text. A grant for "orders.None" would only be refused later.
    if value is None or value == "":
        raise ValueError(f"{{% dwsps_grant %}}: argument {place} is {value!r}, no level of a topic")
    return str(value)


def _request_in(context: Context) -> Any:
    # The context knows it without a context processor, and inside of `{% include … only %}`.
    return getattr(context, "request", None) or context.get("request")
