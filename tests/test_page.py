"""The demo page against a real server, in a real browser."""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect
from websockets.sync.client import connect

from tests.browser import Window, chromium
from tests.processes import Server, ServerFactory

OpenWindow = Callable[..., Window]


@pytest.fixture(scope="module")
def server_kind() -> str:
    """One kind suffices: the kinds differ in nothing that the page can see."""
    return "daphne"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def make_window(browser: Browser) -> Iterator[OpenWindow]:
    """Call it with what is to be special about the browser's user, to get a window with nothing in it."""
    contexts = []

    def make(width: int = 1280, height: int = 900, **options: Any) -> Window:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        return Window(context.new_page())

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def open_window(make_window: OpenWindow, server: Server) -> Iterator[OpenWindow]:
    """Call it to get a window with the page, connected. The browser must find nothing wrong with any of them."""
    windows: list[Window] = []

    def open(query: str = "", **options: Any) -> Window:
        window = make_window(**options)
        windows.append(window)
        return window.open(f"{server.http_url}/{query}")

    yield open
    assert [window.complaints for window in windows] == [[] for _ in windows]


# Publish and subscribe


def test_message_crosses_from_window_to_window(open_window: OpenWindow) -> None:
    one, two = open_window(), open_window()
    one.subscribe("news")
    two.subscribe("news", "news.uk")
    one.publish("news.uk.london", '{"goal": "1:0"}')
    for window in (one, two):
        window.expect_count("news", 1)
        row = window.rows("message").filter(has_text="via news").first
        expect(row.locator(".topic")).to_have_text("news.uk.london")
        expect(row.locator(".topic b")).to_have_text("news")
        expect(row.locator(".text")).to_have_text('{"goal":"1:0"}')
    two.expect_count("news.uk", 1)
    expect(two.rows("message").locator(".context")).to_have_text(["via news", "via news.uk"])
    expect(one.rows("ack").first.locator(".body")).to_have_text(
        re.compile("news.uk.london.*published")
    )


def test_first_steps_lead_to_a_message_in_both_windows(open_window: OpenWindow) -> None:
    one = open_window()
    one.find("#step-subscribe").click()
    expect(one.chip("news")).to_be_visible()
    with one.page.expect_popup() as popup:
        one.find("#step-second").click()
    two = Window(popup.value)
    two.expect_state("open")
    expect(two.chip("news")).to_be_visible()
    expect(one.find("#start .done")).to_have_count(2)
    one.find("#step-publish").click()
    for window in (one, two):
        expect(window.rows("message").locator(".text")).to_have_text('"Hello"')
        expect(window.find("#start")).to_be_hidden()
    assert two.complaints == []


def test_unsubscribed_topic_brings_nothing_more(open_window: OpenWindow) -> None:
    window = open_window()
    window.subscribe("news", "sport")
    window.page.get_by_role("button", name="Unsubscribe from news").click()
    expect(window.rows("ack").filter(has_text="unsubscribed")).to_have_count(1)
    expect(window.find("#subscriptions li")).to_have_count(1)
    window.publish("news", "1")
    window.publish("sport", "2")
    window.expect_count("sport", 1)
    expect(window.rows("message").locator(".topic")).to_have_text(["sport"])


def test_topic_that_the_server_refuses_is_not_shown_as_subscribed(open_window: OpenWindow) -> None:
    window = open_window()
    window.find("#subscribe-topic").fill("two words")
    window.find("#subscribe button").click()
    expect(window.find("#subscribe-outcome")).to_contain_text("invalid_topic: ")
    expect(window.find("#subscriptions li")).to_have_count(0)
    expect(window.rows("error").locator(".text")).to_contain_text("invalid_topic: ")


def test_publish_that_the_policy_refuses_says_so(
    make_window: OpenWindow, start_server: ServerFactory
) -> None:
    server = start_server("daphne", dwsps={"POLICY": "dwsps_channels.policies.ReadOnly"})
    window = make_window().open(server.http_url)
    window.write("news", "1")
    expect(window.find("#publish-outcome")).to_contain_text("forbidden: ")
    expect(window.find("#publish-outcome")).to_have_attribute("data-tone", "bad")


def test_subscriptions_outlive_a_reload(open_window: OpenWindow) -> None:
    window = open_window()
    topics = ["news", "a,b", "ü&=?#%", "☃"]
    window.subscribe(*topics)
    window.page.reload()
    window.expect_state("open")
    for topic in topics:
        expect(window.chip(topic)).to_be_visible()


def test_address_that_nobody_could_have_got_from_the_page_is_harmless(
    open_window: OpenWindow,
) -> None:
    expect(open_window("?topics=%E0%A4%A").find("#subscriptions li")).to_have_count(0)


# Whatever comes in is text


def test_markup_in_a_message_stays_text(open_window: OpenWindow) -> None:
    window = open_window()
    markup = "<img/src=x/onerror=alert(1)>"
    window.subscribe(markup)
    window.publish(markup, json.dumps(markup))
    expect(window.rows("message").locator(".text")).to_have_text(json.dumps(markup))
    expect(window.rows("message").locator(".topic")).to_have_text(markup)
    window.rows("message").locator("summary").click()
    expect(window.rows("message").locator(".frame")).to_contain_text(markup)
    expect(window.find("img")).to_have_count(0)


def test_message_from_a_peer_is_marked(make_window: OpenWindow, server: Server) -> None:
    window = make_window()

    def add_a_frame(page: WebSocketRoute) -> None:
        upstream = page.connect_to_server()

        def relay(frame: str | bytes) -> None:
            page.send(frame)
            if json.loads(frame)["type"] == "ack":
                message = {"type": "publish", "topic": "news", "message": 1, "context": "news"}
                page.send(json.dumps(message | {"fromPeerServer": True}))

        upstream.on_message(relay)

    window.page.route_web_socket(re.compile("/ws/pubsub/"), add_a_frame)
    window.open(server.http_url)
    window.subscribe("news")
    expect(window.rows("message").locator(".badge")).to_have_text("from a peer")


# JSON that is none


INVALID = [  # text, line, column, reason
    ("", 1, 1, "there is nothing here yet"),
    ('{\n  "goal": "1:0"\n  "minute": 73\n}', 3, 3, "a comma is missing before this"),
    ('{"goal": "1:0",}', 1, 16, "take the last comma away"),
    ('["☃😀", x]', 1, 8, "strings need quotes"),
    ("{'goal': 1}", 1, 2, "JSON takes double quotes"),
    ('{"goal": True}', 1, 10, "JSON writes true for True"),
    ('{"goal": "1:0"', 1, 15, "} is missing"),
    ('["1:0}', 1, 7, 'a closing " is missing'),
    ("[" * 50_000, 1, 50_001, "] is missing"),
    ("007", 1, 1, "a number does not begin with 0"),
    ("1 2", 1, 3, "the value has ended"),
    ('"C:\\work"', 1, 4, "a backslash itself is"),
]


def test_invalid_json_is_refused_with_its_place(open_window: OpenWindow) -> None:
    window = open_window()
    field, fault = window.find("#publish-message"), window.find("#publish-fault")
    for text, line, column, reason in INVALID:
        window.write("news", text)
        expect(fault).to_contain_text(f"line {line}, column {column}: ")
        expect(fault).to_contain_text(reason)
        expect(field).to_be_focused()
        expect(field).to_have_attribute("aria-invalid", "true")
        caret = field.evaluate("field => [field.selectionStart, field.selectionEnd]")
        lines = text.split("\n")
        before = "\n".join([*lines[: line - 1], lines[line - 1][: column - 1]])
        offset = len(before.encode("utf-16-le")) // 2  # JavaScript counts so
        assert caret == [offset, offset], text
        assert window.sent == []

    window.publish("news", "1")
    expect(fault).to_be_empty()
    expect(field).not_to_have_attribute("aria-invalid", "true")
    assert [frame["message"] for frame in window.sent] == [1]


def test_plain_words_are_offered_as_a_string(open_window: OpenWindow) -> None:
    window = open_window()
    window.write("news", 'Hello, "world"\n')
    expect(window.find("#publish-fault")).to_contain_text("strings need quotes")
    window.page.get_by_role("button", name="Make it a string").click()
    field = window.find("#publish-message")
    expect(field).to_have_value(r'"Hello, \"world\""')
    expect(field).to_be_focused()
    field.press("Enter")
    expect(window.find("#publish-outcome")).to_contain_text("acknowledged")
    assert [frame["message"] for frame in window.sent] == ['Hello, "world"']


def test_number_that_javascript_cannot_hold_is_told(open_window: OpenWindow) -> None:
    window = open_window()
    window.publish("news", '["9007199254740993", 9007199254740993]')
    expect(window.find("#publish-fault")).to_contain_text(
        "JavaScript holds 9007199254740993 as 9007199254740992"
    )


def test_every_text_that_is_not_json_has_a_place_and_a_reason(open_window: OpenWindow) -> None:
    """The browser's `JSON.parse` is the oracle for whether; the place must be one in the text."""
    pieces = [
        *"{}[],:\"\\01-.eE+/'“😀\n\t\x01 x",
        '"a"',
        "true",
        "null",
        "None",
        r"\u12",
        r"\u00e9",
    ]
    source = random.Random(1)
    texts = ["".join(source.choices(pieces, k=source.randint(0, 8))) for _ in range(20_000)]
    wrong = open_window().page.evaluate(
        """async (texts) => {
            const { read } = await import('/static/project/json.js')
            const isJson = (text) => {
                try { JSON.parse(text); return true } catch { return false }
            }
            return texts.filter((text) => {
                const { fault } = read(text)
                if (!fault || isJson(text)) return Boolean(fault) === isJson(text)
                const rest = [...fault.excerpt].slice(fault.pointer).join('').replace(/…$/, '')
                return fault.reason === 'this is not JSON' || !text.slice(fault.offset).startsWith(rest)
            })
        }""",
        texts,
    )
    assert wrong == []


# The connection


def test_page_comes_back_when_the_server_does(
    make_window: OpenWindow, start_server: ServerFactory
) -> None:
    server = start_server("fastlane")
    one, two = make_window().open(server.http_url), make_window().open(server.http_url)
    for window in (one, two):
        window.subscribe("news")

    server.kill()
    for window in (one, two):
        window.expect_state("reconnecting")
        expect(window.find("#state-detail")).to_contain_text("attempt ")
        expect(window.find("#announce")).to_contain_text("Connection reconnecting")
        expect(window.find("#subscriptions li.pending")).to_have_count(1)
    one.write("news.uk", '"while the server was down"')
    expect(one.find("#publish-outcome")).to_have_text("waiting for the connection")

    server.start()
    for window in (one, two):
        # The pauses between its attempts grow to 20 s if the server takes long to start.
        expect(window.find("#state")).to_have_text("open", timeout=40_000)
        expect(window.chip("news")).to_be_visible()
    expect(one.find("#publish-outcome")).to_contain_text("acknowledged")
    two.publish("news.uk", '"Hello again"')
    expect(one.rows("message").first.locator(".text")).to_have_text('"Hello again"')
    expect(one.rows("message").nth(1).locator(".text")).to_have_text('"while the server was down"')


def test_user_need_not_wait_for_the_next_attempt(
    make_window: OpenWindow, start_server: ServerFactory
) -> None:
    server = start_server("daphne")
    window = make_window()
    # From the kill on, no timer of more than 0.1 s ever ends; and the first pause is of 0.5 s.
    window.page.add_init_script(
        """{
            const start = globalThis.setTimeout
            globalThis.setTimeout = (act, ms, ...rest) =>
                globalThis.patient && ms > 100 ? 0 : start(act, ms, ...rest)
            Math.random = () => 0.999
        }"""
    )
    window.open(server.http_url).subscribe("news")
    window.page.evaluate("() => { globalThis.patient = true }")
    server.restart()
    expect(window.find("#state-detail")).to_have_text("attempt 1, now")
    expect(window.find("#switch")).to_have_text("Disconnect")
    window.page.get_by_role("button", name="Connect now").click()
    window.expect_state("open")
    expect(window.find("#now")).to_be_hidden()
    expect(window.chip("news")).to_be_visible()
    window.publish("news.uk", "1")
    window.expect_count("news", 1)


def test_page_that_only_listens_leaves_a_dead_connection_within_40_s(
    make_window: OpenWindow, server: Server
) -> None:
    window = make_window()
    connections: list[bool] = []  # whether what is sent on it arrives

    def forgetful_router(page: WebSocketRoute) -> None:
        upstream = page.connect_to_server()
        number = len(connections)
        connections.append(True)
        page.on_message(lambda frame: upstream.send(frame) if connections[number] else None)
        upstream.on_message(lambda frame: page.send(frame) if connections[number] else None)

    window.page.clock.install()
    window.page.route_web_socket(re.compile("/ws/pubsub/"), forgetful_router)
    window.open(server.http_url).subscribe("news")
    connections[0] = False
    window.page.clock.run_for(40_000)
    window.expect_state("open")
    assert connections == [False, True]
    expect(window.find("#log li").filter(has_text="the server was silent")).to_have_count(1)
    publish_many(server, "news", 1)
    window.expect_count("news", 1)


def test_messages_of_a_break_appear_afterwards_marked_as_missed(open_window: OpenWindow) -> None:
    one, two = open_window(), open_window()
    for window in (one, two):
        window.subscribe("news")
    one.find("#cut").click()
    one.expect_state("reconnecting")
    expect(one.find("#state-detail")).to_contain_text("cut by you: publish from a second window")
    for text in ('"a"', '"b"'):
        two.publish("news.uk", text)
    one.find("#cut").click()
    one.expect_state("open")
    expect(one.find("#state-detail")).to_have_text("2 missed messages recovered")
    expect(one.rows("message").locator(".text")).to_have_text(['"b"', '"a"'])
    expect(one.rows("message").locator(".badge")).to_have_text(["missed", "missed"])
    two.publish("news", '"c"')
    one.expect_count("news", 3)
    expect(one.rows("message").locator(".badge")).to_have_count(2)
    expect(two.rows("message").locator(".badge")).to_have_count(0)


def test_reset_is_told_in_words(make_window: OpenWindow, start_server: ServerFactory) -> None:
    server = start_server("fastlane")
    window = make_window().open(server.http_url)
    window.subscribe("news")
    server.restart()
    window.connect_now()
    expect(window.find("#log li").filter(has_text="reset: messages to news may be")).to_have_count(
        1
    )
    expect(window.find("#state-detail")).to_contain_text("messages to news may be missing")
    expect(window.chip("news")).to_be_visible()


def test_subscription_begins_with_earlier_messages(open_window: OpenWindow) -> None:
    one, two = open_window(), open_window()
    for text in ("1", "2", "3"):
        one.publish("earlier", text)
    two.find("#subscribe-last").fill("2")
    two.subscribe("earlier")
    two.expect_count("earlier", 2)
    expect(two.rows("message").locator(".text")).to_have_text(["3", "2"])
    expect(two.rows("message").locator(".badge")).to_have_text(["earlier", "earlier"])


def test_subscription_that_the_server_ends_is_told_in_words(
    make_window: OpenWindow, start_server: ServerFactory
) -> None:
    server = start_server("fastlane", dwsps={"POLICY": "tests.wire.policies.Members"})
    window = make_window().open(server.http_url)
    window.find("#subscribe-topic").fill("brief")
    window.find("#subscribe button").click()
    words = (
        "the server has ended the subscription: not allowed to subscribe to 'brief': the time is up"
    )
    expect(window.find("#subscribe-outcome")).to_have_text(f"brief: {words}")
    expect(window.rows("connection").first.locator(".topic")).to_have_text("brief")
    expect(window.rows("connection").first.locator(".text")).to_have_text(words)
    expect(window.find("#subscriptions li")).to_have_count(0)
    window.expect_state("open")


LOG_IN = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User

user = User.objects.create_superuser("ann")
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()
print(session.session_key)
"""


def test_user_who_logs_out_elsewhere_is_told_what_to_do(
    make_window: OpenWindow, start_server: ServerFactory
) -> None:
    server = start_server("fastlane")
    key = server.manage("shell", "-v", "0", "-c", LOG_IN).strip()
    window = make_window()
    window.page.context.add_cookies([{"name": "sessionid", "value": key, "url": server.http_url}])
    window.open(server.http_url).subscribe("news")
    other = window.page.context.new_page()
    other.goto(f"{server.http_url}/admin/")
    other.get_by_role("button", name="Log out").click()
    window.expect_state("closed")
    words = "the server does not know you any more: log in, and load the page again"
    expect(window.find("#state-detail")).to_contain_text(words)
    expect(window.find("#subscriptions li.pending")).to_have_count(1)


CREDENTIALS = """
import json
from django.contrib.auth.models import User
from dwsps_channels.grants import make_grant
from dwsps_channels.tokens import make_token

ann = User.objects.create_user("ann", password="secret")
print(json.dumps({"token": make_token(ann), "grant": make_grant("orders.42", user=ann)}))
"""


def test_token_and_grant_work_in_a_browser(
    make_window: OpenWindow, start_server: ServerFactory
) -> None:
    rights = {
        "AUTHENTICATOR": "dwsps_channels.tokens.SignedToken",
        "POLICY": "tests.wire.policies.Members",
    }
    server = start_server("fastlane", dwsps=rights)
    credentials = json.loads(server.manage("shell", "-v", "0", "-c", CREDENTIALS))
    window = make_window().open(server.http_url)
    got = window.page.evaluate(
        """async ({ token, grant }) => {
            const { url, script } = document.body.dataset
            const { PSClient } = await import(script)
            const client = new PSClient(url, { token: async () => token })
            await client.subscribe('members.x')
            const got = []
            await client.subscribe('orders.42', ({ message }) => got.push(message), { grant: async () => grant })
            await client.publish('orders.42.state', 'paid')
            return [client.url, ...got]
        }""",
        credentials,
    )
    assert got == [f"ws{server.http_url.removeprefix('http')}/ws/pubsub/", "paid"]


def test_user_closes_the_connection_and_opens_it_again(open_window: OpenWindow) -> None:
    window = open_window()
    window.subscribe("news")
    switch = window.find("#switch")
    expect(switch).to_have_text("Disconnect")
    switch.click()
    window.expect_state("closed")
    window.write("news", "1")
    expect(window.find("#publish-outcome")).to_contain_text("not connected")
    window.find("#subscribe-topic").fill("sport")
    window.find("#subscribe button").click()
    expect(window.find("#subscriptions li.pending")).to_have_count(2)

    expect(switch).to_have_text("Connect")
    switch.click()
    window.expect_state("open")
    for topic in ("news", "sport"):
        expect(window.chip(topic)).to_be_visible()
    window.publish("news", "2")
    window.expect_count("news", 1)


def test_page_says_when_its_script_is_missing(make_window: OpenWindow, server: Server) -> None:
    window = make_window()
    window.page.route("**/dwsps.js", lambda route: route.fulfill(status=404))
    window.page.goto(server.http_url)
    window.expect_state("closed")
    expect(window.find("#state-detail")).to_contain_text("dwsps.js did not load")


# The log


def publish_many(server: Server, topic: str, count: int) -> None:
    with connect(server.url, proxy=None) as client:
        for number in range(count):
            client.send(json.dumps({"type": "publish", "topic": topic, "message": number}))
        for _ in range(count):
            assert json.loads(client.recv(timeout=20))["type"] == "ack"


def test_log_keeps_the_last_500_entries(open_window: OpenWindow, server: Server) -> None:
    window = open_window()
    window.subscribe("many")
    publish_many(server, "many", 700)
    window.expect_count("many", 700)
    expect(window.rows("message").first.locator(".text")).to_have_text("699")
    expect(window.find("#log > li")).to_have_count(500)
    expect(window.rows("message").last.locator(".text")).to_have_text("200")
    expect(window.find("#kinds [data-kind=message] output")).to_have_text("700")


def test_paused_log_stands_still_and_then_catches_up(open_window: OpenWindow) -> None:
    window = open_window()
    window.subscribe("news")
    pause = window.find("#pause")
    pause.click()
    before = window.find("#log > li").count()
    window.publish("news", "1")
    expect(window.find("#log-note")).to_have_text("Paused. 2 waiting.")
    assert window.find("#log > li").count() == before
    expect(pause).to_have_text("Resume")
    pause.click()
    expect(window.rows("message").locator(".text")).to_have_text("1")
    expect(window.find("#log > li")).to_have_count(before + 2)


def test_log_is_filtered_by_kind_and_cleared(open_window: OpenWindow) -> None:
    window = open_window()
    window.subscribe("news")
    window.publish("news", "1")
    acks = window.page.get_by_role("button", name=re.compile("^Acks"))
    acks.click()
    expect(acks).to_have_attribute("aria-pressed", "false")
    expect(window.rows("ack")).to_have_count(2)
    expect(window.rows("ack").first).to_be_hidden()
    expect(window.rows("message").first).to_be_visible()
    acks.click()
    expect(window.rows("ack").first).to_be_visible()
    window.find("#clear").click()
    expect(window.find("#log > li")).to_have_count(0)
    expect(window.find("#log-note")).to_contain_text("Nothing yet.")


# For everybody


def test_all_is_done_by_keyboard(open_window: OpenWindow) -> None:
    window = open_window()
    press = window.page.keyboard.press

    def tab_to(selector: str) -> None:
        for _ in range(40):
            press("Tab")
            focused = window.find(":focus")
            ring = focused.evaluate("element => getComputedStyle(element).outlineStyle")
            assert ring != "none", f"{focused} has the focus, and nothing shows it"
            if focused.evaluate("(element, selector) => element.matches(selector)", selector):
                return
        raise AssertionError(f"the tab key does not lead to {selector}")

    expect(window.find("#subscribe-topic")).to_be_focused()
    window.page.keyboard.type("sport")
    press("Enter")
    expect(window.chip("sport")).to_be_visible()
    tab_to("#publish-topic")
    window.page.keyboard.type("sport.goal")
    tab_to("#publish-message")
    press("Control+a")
    window.page.keyboard.type("[1,")
    press("Shift+Enter")
    window.page.keyboard.type("2]")
    expect(window.find("#publish-message")).to_have_value("[1,\n2]")
    press("Enter")
    expect(window.rows("message").locator(".text")).to_have_text("[1,2]")
    # The newest row, once it is there, is the one that the tab key leads to.
    expect(window.rows("ack").first).to_contain_text("published")

    tab_to("#log summary")
    expect(window.find(":focus")).to_contain_text("published")
    press("ArrowDown")
    expect(window.find(":focus")).to_contain_text("[1,2]")
    press("Enter")
    frame = window.rows("message").locator(".frame")
    expect(frame).to_be_visible()
    assert json.loads(frame.inner_text())["topic"] == "sport.goal"
    press("Shift+Tab")
    expect(window.find(":focus")).to_have_text("Clear")  # the log is one stop, not one for each row

    window.page.get_by_role("button", name="Unsubscribe from sport").focus()
    press("Enter")
    expect(window.find("#subscriptions li")).to_have_count(0)
    expect(window.find("#subscribe-topic")).to_be_focused()


def test_nothing_is_wider_than_the_window(open_window: OpenWindow) -> None:
    window = open_window()

    def overflows() -> dict[int, int]:
        found: dict[int, int] = {}
        for width in (320, 360, 640, 1280):
            window.page.set_viewport_size({"width": width, "height": 800})
            root = "document.documentElement"
            excess = window.page.evaluate(f"() => {root}.scrollWidth - {root}.clientWidth")
            found |= {width: excess} if excess else {}
        return found

    assert overflows() == {}
    topic = "n" * 255
    window.subscribe("news", topic)
    window.publish(topic, json.dumps("x" * 3000))
    window.publish("news.uk", json.dumps({"words": "lorem ipsum " * 100}))
    window.expect_count(topic, 1)
    window.expect_count("news", 1)
    for row in window.rows("message").locator("summary").all():
        row.click()
    window.write("news", "x" * 300)
    expect(window.find("#publish-fault")).to_contain_text("strings need quotes")
    assert overflows() == {}


CONTRASTS = """() => {
    const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
    const pixel = (...colours) => {
        for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1) }
        return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3)
    }
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const found = []
    for (const element of document.querySelectorAll('body *')) {
        const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join('')
        if (!text || !element.checkVisibility() || element.closest('svg')) continue
        const grounds = []
        for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor)
        const back = light(pixel('white', ...grounds))
        const front = light(pixel('white', ...grounds, getComputedStyle(element).color))
        const contrast = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05)
        found.push([text, Math.round(contrast * 100) / 100])
    }
    return found
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(open_window: OpenWindow, scheme: str) -> None:
    """WCAG 2 asks for a contrast of 4.5 to 1."""
    window = open_window(color_scheme=scheme, reduced_motion="reduce")
    found: list[tuple[str, float]] = window.page.evaluate(CONTRASTS)
    window.subscribe(
        "news", *(f"topic{number}" for number in range(7))
    )  # each of the eight colours
    window.publish("news.uk", "1")
    window.expect_count("news", 1)
    window.find("#subscribe-topic").fill("two words")
    window.find("#subscribe button").click()
    expect(window.rows("error")).to_have_count(1)
    window.write("news", "words")
    found += window.page.evaluate(CONTRASTS)
    texts = {text for text, _ in found}
    assert {"Send a message from one window to another in three steps:", "topic6"} < texts
    assert [(text, contrast) for text, contrast in found if contrast < 4.5] == []


def test_phone_is_not_greeted_with_its_keyboard(open_window: OpenWindow) -> None:
    phone = open_window(width=360, height=740, has_touch=True, is_mobile=True)
    expect(phone.find("body")).to_be_focused()
