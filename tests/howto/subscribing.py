"""A look at a page's policy from within the page."""

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


def become(window: Window, session: str) -> None:
    """Make another user of who sits at the window; the page that is open stays."""
    context = window.page.context
    context.clear_cookies()
    context.add_cookies([{"name": "sessionid", "value": session, "url": window.page.url}])
