"""A page's user, and what the policy lets them subscribe to."""

from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext

from tests.browser import Window

SUBSCRIBE = """async (topic) => {
    const { url, script } = document.body.dataset
    const { PSClient } = await import(script)
    const client = new PSClient(url)
    try {
        return await client.subscribe(topic).then(() => 'granted', (error) => error.code)
    } finally {
        client.close()
    }
}"""


def may_subscribe(window: Window, topic: str) -> bool:
    """Ask the server, with a new connection of the page's user."""
    answer = window.page.evaluate(SUBSCRIBE, topic)
    assert answer in ("granted", "forbidden"), answer
    return bool(answer == "granted")


def log_in(context: BrowserContext, url: str, session: str) -> None:
    """Give a browser the `sessionid` cookie of a user of the site that `url` is on."""
    site = urlsplit(url)
    # For all of the site: the websocket has another path than the page.
    context.add_cookies(
        [{"name": "sessionid", "value": session, "url": f"{site.scheme}://{site.netloc}/"}]
    )


def become(window: Window, session: str) -> None:
    """Make another user of who sits at the window; the page that is open stays."""
    window.page.context.clear_cookies()
    log_in(window.page.context, window.page.url, session)
