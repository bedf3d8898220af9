"""Chromium on the fast lane: its own WebSocket, and our client, which a page loads from the server it talks to."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from websockets.sync.client import connect

from tests.browser import TIMEOUT, chromium
from tests.conftest import server_factory
from tests.connections.fastlane.certificate import make_certificate
from tests.processes import HOST, Server, ServerFactory, base_environment, free_port, wait_until

# What a page knows of a WebSocket, kept for the test to ask for. Nothing is waited for without end.
WIRE = """
class Wire {
  constructor(path, protocols) {
    this.frames = []
    this.socket = new WebSocket(new URL(path, location.href.replace(/^http/, 'ws')), protocols)
    this.socket.binaryType = 'arraybuffer'
    this.socket.onmessage = ({ data }) => {
      this.frames.push(data)
      this.wake?.()
    }
    this.opened = within('open', (resolve) => (this.socket.onopen = resolve))
    this.closed = new Promise((resolve) => {
      this.socket.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, wasClean })
    })
  }

  static async open(path, protocols) {
    const wire = new Wire(path, protocols)
    await wire.opened
    return wire
  }

  send(message) {
    this.socket.send(JSON.stringify(message))
  }

  /** The next `count` frames. */
  async take(count = 1) {
    while (this.frames.length < count) await within('a frame', (resolve) => (this.wake = resolve))
    return this.frames.splice(0, count)
  }

  async takeJSON(count = 1) {
    return (await this.take(count)).map((frame) => JSON.parse(frame))
  }

  async call(type, topic, fields) {
    this.send({ type, topic, ...fields })
    return (await this.takeJSON())[0]
  }

  ended() {
    return within('the end', (resolve) => this.closed.then(resolve))
  }
}

function within(what, begin) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not within TIMEOUT ms: ${what}`)), TIMEOUT)
    begin((value) => {
      clearTimeout(timer)
      resolve(value)
    })
  })
}
""".replace("TIMEOUT", str(TIMEOUT))

# Anything that the server serves without the demo page's rules for scripts. A page that playwright made up would not
# do: what did not come from the loopback interface is not let back there.
CLIENT_MODULE = "/static/dwsps_channels/dwsps.js"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@contextmanager
def window(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A window of the server at ``url``, with ``Wire``. The browser must find nothing wrong with it."""
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("crash", lambda _: complaints.append("the page has crashed"))
        page.goto(url + CLIENT_MODULE)
        page.add_script_tag(content=WIRE)
        yield page
        assert complaints == []
    finally:
        context.close()


@pytest.fixture(scope="module", params=["uvicorn", "runpubsub"])
def command(request: pytest.FixtureRequest) -> str:
    """Each of the commands that serve on the fast lane in turn."""
    named: str = request.param
    return named


@contextmanager
def serving(command: str, folder: Path, migrated_database: Path) -> Iterator[Server]:
    with Server.all_closed() as servers:
        start = server_factory(servers, folder, migrated_database)
        if command == "uvicorn":
            yield start("fastlane")
        else:
            port = free_port()
            server = Server(
                "runpubsub",
                [sys.executable, "manage.py", "runpubsub", "--serve", f"{HOST}:{port}"],
                port=port,
                env=base_environment(start.database),
                folder=folder,
            )
            servers.append(server)
            yield server.start()


@pytest.fixture(scope="module")
def site(
    command: str, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running server, one a module and command."""
    folder = tmp_path_factory.mktemp("site")
    with serving(command, folder, migrated_database) as server:
        yield server


@pytest.fixture
def page(browser: Browser, site: Server) -> Iterator[Page]:
    with window(browser, site.http_url) as page:
        yield page


@pytest.fixture
def own_site(command: str, migrated_database: Path, tmp_path: Path) -> Iterator[Server]:
    """A server for a test that ends it."""
    with serving(command, tmp_path, migrated_database) as server:
        yield server


class TestItsOwnWebSocket:
    def test_what_is_published_arrives_once_and_in_order(self, page: Page) -> None:
        """At the publisher before its ack, and at another socket of the page."""
        count = 500
        acked, here, there = page.evaluate(
            """async (count) => {
                const [one, two] = await Promise.all([Wire.open('/'), Wire.open('/ws/pubsub/')])
                await one.call('subscribe', 'news')
                await two.call('subscribe', 'news.uk')
                for (let n = 0; n < count; n++) one.send({ type: 'publish', topic: 'news.uk', message: n, id: n })
                const [frames, there] = await Promise.all([one.takeJSON(2 * count), two.takeJSON(count)])
                for (const wire of [one, two]) {
                    const { id } = await wire.call('unsubscribe', 'nothing.more', { id: 'nothing more' })
                    if (id !== 'nothing more') throw new Error(`there was one more`)
                }
                return [frames.map(({ type, id, message }) => [type, id ?? message]), there[0], there.map((f) => f.message)]
            }""",
            count,
        )
        assert acked == [[type, n] for n in range(count) for type in ("publish", "ack")]
        assert (here["topic"], here["context"]) == ("news.uk", "news.uk")
        assert there == list(range(count))

    def test_message_of_64_kib_arrives_byte_for_byte_and_a_larger_one_is_refused(
        self, page: Page
    ) -> None:
        largest, whole, refused, alive = page.evaluate(
            """async () => {
                const wire = await Wire.open('/')
                await wire.call('subscribe', 'large')
                const [before, after] = ['{"type":"publish","topic":"large","message":"', '"}']
                const room = 64 * 1024 - before.length - after.length
                const text = '☃'.repeat(room / 3) + 'x'.repeat(room % 3)
                const largest = new TextEncoder().encode(before + text + after).length
                wire.socket.send(before + text + after)
                const [delivery, ack] = await wire.takeJSON(2)
                const whole = delivery.message === text && ack.type === 'ack'
                wire.socket.send(before + text + 'x' + after)
                const [refused] = await wire.takeJSON()
                return [largest, whole, refused.code, (await wire.call('publish', 'other', { message: 1 })).type]
            }"""
        )
        assert (largest, whole) == (65_536, True)
        assert (refused, alive) == ("message_too_large", "ack")

    def test_binary_frame_is_taken_as_its_text_would_be(self, page: Page) -> None:
        """As a buffer and as a blob; what is no UTF-8 is answered, and the session lives."""
        delivered, answers = page.evaluate(
            """async () => {
                const wire = await Wire.open('/')
                await wire.call('subscribe', 'binary')
                const bytes = new TextEncoder().encode('{"type":"publish","topic":"binary","message":"ü☃😀"}')
                const delivered = []
                for (const data of [bytes, bytes.buffer, new Blob([bytes])]) {
                    wire.socket.send(data)
                    const [delivery, ack] = await wire.takeJSON(2)
                    delivered.push([delivery.message, ack.type])
                }
                wire.socket.send(new Uint8Array([0x22, 0xff, 0xfe, 0x22]))
                const [refused] = await wire.takeJSON()
                return [delivered, [refused.code, (await wire.call('publish', 'other', { message: 1 })).type]]
            }"""
        )
        assert delivered == [["ü☃😀", "ack"]] * 3
        assert answers == ["invalid_json", "ack"]

    def test_compression_is_not_agreed_on(self, page: Page) -> None:
        """The browser offers it each time."""
        assert page.evaluate("async () => (await Wire.open('/')).socket.extensions") == ""

    def test_close_of_the_page_s_own_is_answered_with_its_code(self, page: Page) -> None:
        ended = page.evaluate(
            """async () => {
                const wire = await Wire.open('/')
                wire.socket.close(4321, 'enough')
                return wire.ended()
            }"""
        )
        assert (ended["code"], ended["wasClean"]) == (4321, True)


def test_sigterm_tells_the_page_why_and_closes_with_4200(
    browser: Browser, own_site: Server
) -> None:
    with window(browser, own_site.http_url) as page:
        page.evaluate(
            """async () => {
                window.wires = await Promise.all([Wire.open('/'), Wire.open('/')])
                await Promise.all(wires.map((wire) => wire.call('subscribe', 'news')))
            }"""
        )
        assert own_site.terminate() == 0
        for frames, ended in page.evaluate(
            "() => Promise.all(wires.map(async (wire) => [await wire.takeJSON(), await wire.ended()]))"
        ):
            [error] = frames
            assert (error["type"], error["code"]) == ("error", "unavailable")
            assert error["retryable"] is True
            assert (ended["code"], ended["wasClean"]) == (4200, True)
        assert page.evaluate("() => wires.map((wire) => wire.frames)") == [[], []]
    assert "Traceback" not in own_site.log


CLIENT = """async (module) => {
    const { PSClient } = await import(module)
    window.client = new PSClient('/ws/pubsub/')
    window.got = []
    window.ends = []
    client.on('close', ({ code }) => ends.push(code))
    client.subscribe('news', ({ message }) => got.push(message))
    await within('an ack', (resolve) => client.publish('news.uk', 'before').then(resolve))
}"""


def test_our_client_comes_back_to_a_server_that_was_restarted(
    browser: Browser, own_site: Server
) -> None:
    """With what it had subscribed to, and with what was published by it in between: told to end, then crashed."""
    with window(browser, own_site.http_url) as page:
        page.evaluate(CLIENT, CLIENT_MODULE)
        seen: list[object] = ["before"]
        for number, end in enumerate([own_site.terminate, own_site.kill], 1):
            end()
            page.wait_for_function("number => ends.length === number", arg=number)
            assert page.evaluate("client.state") == "reconnecting"
            page.evaluate("number => { window.waiting = client.publish('news', number) }", number)
            own_site.start()
            ack = page.evaluate("within('an ack', (resolve) => waiting.then(resolve))")
            assert ack["type"] == "ack"
            with connect(own_site.url, compression=None) as other:
                other.send(f'{{"type":"publish","topic":"news.uk","message":"other {number}"}}')
                assert '"ack"' in str(other.recv(10))
            seen += [number, f"other {number}"]
            page.wait_for_function("count => got.length >= count", arg=len(seen))
        assert page.evaluate("got") == seen
        assert page.evaluate("ends") == [4200, 1006]
    assert "Traceback" not in own_site.log


def test_over_tls(browser: Browser, start_server: ServerFactory, tmp_path: Path) -> None:
    """The page's origin is https, and is compared with what the server knows of itself."""
    # uvicorn waits for the browser's connections for pages too, and browsers leave the end of TLS to the server.
    in_time = ["--timeout-graceful-shutdown", "1"]
    server = start_server("fastlane", *make_certificate(tmp_path).arguments, *in_time)
    url = server.http_url.replace("http", "https")
    with window(browser, url, ignore_https_errors=True) as page:
        page.evaluate(CLIENT, CLIENT_MODULE)
        page.wait_for_function("got.length === 1")
        assert page.evaluate("client.url") == f"wss://{HOST}:{server.port}/ws/pubsub/"
        assert server.terminate() == 0
        page.wait_for_function("ends.length === 1")
        assert page.evaluate("ends") == [4200]
    assert "Traceback" not in server.log


class TestOtherConsumers:
    """Not this app's: the project's own, by ASGI."""

    @pytest.fixture
    def page(self, browser: Browser, server: Server) -> Iterator[Page]:
        with window(browser, server.http_url) as page:
            yield page

    @pytest.mark.parametrize("path", ["/echo/", "/blocking/"])
    def test_text_and_binary_of_any_size_come_back(self, page: Page, path: str) -> None:
        """Large ones in the fragments that the browser makes of them."""
        results = page.evaluate(
            """async (path) => {
                const wire = await Wire.open(path)
                const results = []
                for (const size of [0, 1, 125, 126, 65535, 65536, 200000, 900000]) {
                    const bytes = Uint8Array.from({ length: size }, (_, index) => index % 251)
                    wire.socket.send('x'.repeat(size))
                    wire.socket.send(bytes)
                    wire.socket.send(new Blob([bytes]))
                    const [text, ...buffers] = await wire.take(3)
                    results.push(text === 'x'.repeat(size))
                    for (const buffer of buffers) {
                        const back = new Uint8Array(buffer)
                        results.push(back.length === size && back.every((byte, index) => byte === bytes[index]))
                    }
                }
                return results
            }""",
            path,
        )
        assert results == [True] * 24

    def test_subprotocol_is_the_application_s_choice(self, page: Page) -> None:
        chosen = page.evaluate(
            "async () => (await Wire.open('/subprotocol/', ['one', 'two'])).socket.protocol"
        )
        assert chosen == "two"

    def test_close_is_the_application_s(self, page: Page) -> None:
        ended = page.evaluate(
            """async () => {
                const wire = await Wire.open('/closing/')
                wire.socket.send('close')
                return wire.ended()
            }"""
        )
        assert ended == {"code": 4321, "reason": "as you said", "wasClean": True}

    def test_refused_connection_is_1006(self, page: Page) -> None:
        ended = page.evaluate(
            """async () => {
                const wire = new Wire('/refusing/')
                wire.opened.catch(() => {})
                return wire.ended()
            }"""
        )
        assert (ended["code"], ended["wasClean"]) == (1006, False)

    def test_page_that_is_left_says_that_it_goes(self, page: Page, server: Server) -> None:
        before = server.log.count("disconnected 0 1001")
        page.evaluate(
            "async () => { window.wires = await Promise.all([1, 2, 3].map(() => Wire.open('/sleeping/'))) }"
        )
        page.goto("about:blank")
        wait_until(lambda: server.log.count("disconnected 0 1001") == before + 3, 10)
