"""The demo page in Debian's Chromium, as a user has it before them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Response,
    WebSocket,
    expect,
    sync_playwright,
)

from tests.processes import require

# It runs as root in containers, has no graphics card there, and is to talk to nobody but the server.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A busy machine may take long to draw; a condition that holds is not waited for any longer.
TIMEOUT = 20_000  # ms


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """
    Start a browser, with more command line arguments; if Chromium is missing the test is skipped, or fails in CI.

    While it runs, playwright keeps an event loop running in this thread: start no other one.
    """
    # Chromium without a window system takes half the time of the one with it.
    executable = require("chromium-headless-shell", "chromium")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=[*ARGUMENTS, *arguments]
        )
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """
    A window with the page in it.

    `complaints` is all that the browser found wrong, and `sent` all frames that the page has sent.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.sent: list[dict[str, Any]] = []
        page.set_default_timeout(TIMEOUT)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"page: {error}"))
        page.on("response", self._answered)
        page.on("websocket", self._connected)

    def _heard(self, message: ConsoleMessage) -> None:
        # The browser asks for the icon by itself, whether the site has one or not.
        if message.location["url"].endswith("/favicon.ico"):
            return
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")

    def _connected(self, socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: self.sent.append(json.loads(frame)))

    def open(self, url: str) -> "Window":
        self.page.goto(url)
        self.expect_state("open")
        return self

    def connect_now(self) -> None:
        """Spare the page's clients the rest of their pause, as if the network were back: it may be of up to 20 s."""
        self.page.evaluate("() => { dispatchEvent(new Event('online')) }")

    def find(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def expect_state(self, state: str) -> None:
        expect(self.find("#state")).to_have_text(state)

    def chip(self, topic: str) -> Locator:
        """The subscription to this topic as the page shows it once the server has acknowledged it."""
        return self.find(f'#subscriptions li[data-topic="{topic}"]:not(.pending)')

    def expect_count(self, topic: str, count: int) -> None:
        expect(self.chip(topic).locator("output")).to_have_text(str(count))

    def rows(self, kind: str) -> Locator:
        """The rows of the log, the newest first."""
        return self.find(f'#log li[data-kind="{kind}"]')

    def subscribe(self, *topics: str) -> None:
        for topic in topics:
            self.find("#subscribe-topic").fill(topic)
            self.find("#subscribe button").click()
            expect(self.chip(topic)).to_be_visible()

    def publish(self, topic: str, text: str) -> None:
        """Publish what `text` is as JSON, and wait for the ack."""
        self.write(topic, text)
        outcome = self.find("#publish-outcome")
        expect(outcome).to_contain_text("acknowledged in")
        expect(outcome).to_have_attribute("data-tone", "good")

    def write(self, topic: str, text: str) -> None:
        """Press Publish, whatever comes of it."""
        self.find("#publish-topic").fill(topic)
        self.find("#publish-message").fill(text)
        self.find("#publish .actions button").click()
