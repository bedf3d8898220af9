"""Rules written in the admin, in force in pages that stay open: in a real browser, on a real server."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import TIMEOUT, Window, chromium
from tests.processes import Server, ServerFactory, wait_until

PASSWORD = "a password for this test"
RULES = "admin/dwsps_channels/topicrule/"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def server(start_server: ServerFactory) -> Server:
    server = start_server("fastlane", dwsps={"POLICY": "dwsps_channels.policies.TopicRules"})
    server.env["DJANGO_SUPERUSER_PASSWORD"] = PASSWORD
    server.manage(
        *("createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.org")
    )
    return server


class Visitor(Window):
    """The demo page, never loaded again; ``received`` has all frames that it was sent."""

    def __init__(self, page: Page) -> None:
        self.received: list[dict[str, Any]] = []
        page.on("websocket", lambda socket: socket.on("framereceived", self._take))
        super().__init__(page)

    def _take(self, frame: str | bytes) -> None:
        self.received.append(json.loads(frame))

    def got(self, kind: str, topic: str) -> list[dict[str, Any]]:
        return [
            each for each in self.received if (each["type"], each.get("topic")) == (kind, topic)
        ]

    def wait_for(self, condition: Callable[[], object]) -> None:
        def holds() -> object:
            self.page.evaluate("0")  # has the browser's events handled
            return condition()

        wait_until(holds)

    def messages(self) -> list[Any]:
        return [each["message"] for each in self.received if each["type"] == "publish"]


def overflow(page: Page) -> int:
    return int(
        page.evaluate(
            "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
        )
    )


def save(page: Page, **fields: str) -> float:
    """Fill in the form of a rule, save it, and return when the answer was there."""
    for name, value in fields.items():
        if name == "topic":
            page.fill("#id_topic", value)
        else:
            page.select_option(f"#id_{name}", value)
    page.click("input[name=_save]")
    expect(page.locator(".messagelist .success")).to_be_visible()
    return time.monotonic()


def test_rules_are_added_explained_changed_and_in_force_in_an_open_page(
    browser: Browser, server: Server
) -> None:
    admin = browser.new_context().new_page()
    admin.set_default_timeout(TIMEOUT)
    url = f"{server.http_url}/{RULES}"
    admin.goto(url)
    admin.fill("#id_username", "admin")
    admin.fill("#id_password", PASSWORD)
    admin.click("input[type=submit]")
    expect(admin.locator("#user-tools")).to_be_visible()
    desk = Visitor(admin.context.new_page())
    desk.open(server.http_url)
    visitor = Visitor(browser.new_context().new_page())
    visitor.open(server.http_url)

    def explained(user: str, topic: str) -> str:
        admin.goto(url)
        admin.click("text=Explain a decision")
        admin.fill("#id_user", user)
        admin.fill("#id_topic", topic)
        admin.click("input[type=submit][value=Explain]")
        return admin.locator(".dwsps-explained").inner_text()

    # Without rules nobody may do anything.
    visitor.find("#subscribe-topic").fill("news")
    visitor.find("#subscribe button").click()
    visitor.wait_for(lambda: visitor.got("error", "news"))
    assert "no topic rule is for it" in visitor.got("error", "news")[0]["reason"]

    # The empty list offers a first rule, and another one is added.
    admin.goto(url)
    admin.click("text=everybody may subscribe, and only code publishes")
    save(admin)
    admin.goto(f"{url}add/")
    expect(admin.locator(".field-publish_group")).to_be_hidden()
    admin.select_option("#id_publish", "group")
    expect(admin.locator(".field-publish_group")).to_be_visible()
    save(admin, topic="news", subscribe="everybody", publish="staff")
    assert admin.locator(".field-shown_topic").all_inner_texts() == ["every topic", "news"]
    assert "A visitor may subscribe to news.uk: the rule for news allows everybody." in explained(
        "", "news.uk"
    )
    assert "admin may publish to news: the rule for news allows only staff." in explained(
        "admin", "news"
    )

    # Both are in force in the pages that stand open.
    visitor.subscribe("news")
    desk.publish("news.uk", '"first"')
    visitor.wait_for(lambda: visitor.messages() == ["first"])
    visitor.write("news", '"from a stranger"')
    visitor.wait_for(lambda: len(visitor.got("error", "news")) == 2)

    # A deeper rule keeps its topic from a subscription that stands.
    admin.goto(f"{url}add/")
    save(admin, topic="news.staff", subscribe="staff", publish="staff")
    assert "news.staff: the rule for news.staff allows only staff" in explained("", "news")
    desk.publish("news.staff", '"for staff"')
    desk.publish("news", '"second"')
    visitor.wait_for(lambda: "second" in visitor.messages())
    assert visitor.messages() == ["first", "second"]

    # A rule that allows less ends the subscription, and one that allows more is heeded.
    admin.goto(url)
    admin.click(".field-shown_topic a >> text=/^news$/")
    saved = save(admin, subscribe="authenticated")
    visitor.wait_for(lambda: visitor.got("unsubscribed", "news"))
    print(f"subscription ended {time.monotonic() - saved:.3f} s after the answer to the change")
    [ended] = visitor.got("unsubscribed", "news")
    assert ended["code"] == "forbidden"
    assert "by the topic rule for news" in ended["reason"]
    desk.publish("news", '"third"')
    admin.goto(url)
    admin.click(".field-shown_topic a >> text=/^news$/")
    admin.click("a.deletelink")
    # Not a button of the page that it leaves.
    admin.click(".delete-confirmation input[type=submit]")
    expect(admin.locator(".messagelist .success")).to_be_visible()
    visitor.subscribe("news.uk")
    assert visitor.messages() == ["first", "second"]

    # On a phone no page is wider than the screen.
    admin.set_viewport_size({"width": 375, "height": 667})
    for page in ("", "add/", "explain/?user=admin&topic=news"):
        admin.goto(url + page)
        assert overflow(admin) == 0, page
