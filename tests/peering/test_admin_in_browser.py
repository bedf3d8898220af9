"""Peers in the admin, in a real browser, beside a real worker."""

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from dwsps_channels.client.blocking import BlockingClient
from tests.browser import TIMEOUT, chromium
from tests.peering.conftest import MakeSites
from tests.peering.site import SECRET, Site
from tests.processes import manage, wait_until

PASSWORD = "a password for this test"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def running(make_shared_sites: MakeSites) -> list[Site]:
    """Two servers; north has an admin."""
    north, south = make_shared_sites("north", "south")
    north.start_server()
    south.start_server()
    create_admin(north)
    return [north, south]


@pytest.fixture
def two(running: list[Site]) -> Iterator[list[Site]]:
    """They know no peers yet, and have no workers."""
    yield running
    for site in running:
        site.end_workers()
        site.remove_peers()


def create_admin(site: Site) -> None:
    manage(
        *("createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.org"),
        env=site.server.env | {"DJANGO_SUPERUSER_PASSWORD": PASSWORD},
    )


def log_in(browser: Browser, site: Site, bodies: list[str]) -> Page:
    """A page of the admin's user; all that the server answers goes to ``bodies``."""
    page = browser.new_context().new_page()
    page.set_default_timeout(TIMEOUT)

    def keep(response: Response) -> None:
        # A redirect has no body, and a secret could stand in its headers.
        bodies.append(str(response.headers))
        if response.status < 300 and "text" in response.headers.get("content-type", ""):
            bodies.append(response.text())

    page.on("response", keep)
    page.goto(f"{site.server.http_url}/admin/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.click("input[type=submit]")
    return page


OVERFLOW = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"


def test_a_peer_is_added_connects_is_disabled_and_goes(browser: Browser, two: list[Site]) -> None:
    north, south = two
    far = south.server
    south.add_peer("north", north.url, "--no-forward")
    north.start_worker()
    bodies: list[str] = []
    page = log_in(browser, north, bodies)
    peers = f"{north.server.http_url}/admin/dwsps_channels/peer/"

    def state() -> str:
        page.goto(peers)
        return page.locator(".field-sending").first.inner_text()

    # Add it, and see it connect.
    page.goto(f"{peers}add/")
    page.fill("#id_name", "south")
    page.fill("#id_url", south.url)
    page.fill("#id_new_secret", SECRET)
    page.click("input[name=_save]")
    # A page takes more than a look at the row.
    wait_until(lambda: north.peer("south").get("state") == "connected")
    wait_until(lambda: "connected" in state(), what="the list says that it is connected")
    wait_until(lambda: "peer 'north' connected" in far.log)

    # Test the connection by hand.
    page.check("input[name=_selected_action]")
    page.select_option("select[name=action]", "test_connection")
    page.click("button[name=index]")
    expect(page.locator(".messagelist")).to_contain_text(re.compile(r"\d ms"))

    # The form shows its status, and not its secret.
    page.click(".field-name a")
    expect(page.locator(".field-state")).to_contain_text("connected")
    expect(page.locator("#id_new_secret")).to_have_value("")
    form = page.url
    page.goto(page.url.replace("change/", "history/"))

    # On a phone no page is wider than the screen.
    page.set_viewport_size({"width": 375, "height": 667})
    for url in (peers, form, f"{peers}add/"):
        page.goto(url)
        assert page.evaluate(OVERFLOW) == 0, url
    page.set_viewport_size({"width": 1280, "height": 720})

    # Disable it, and see it go.
    page.goto(peers)
    page.check("input[name=_selected_action]")
    page.select_option("select[name=action]", "disable")
    page.click("button[name=index]")
    wait_until(lambda: "peer 'north' disconnected" in far.log)
    wait_until(lambda: north.peer("south")["state"] == "disabled")
    wait_until(lambda: "disabled" in state(), what="the list says that it is disabled")

    page.close()
    assert len(bodies) > 20
    assert not [body for body in bodies if SECRET in body]
    for log in (north.server.log, far.log, *(child.log for child in north.workers)):
        assert SECRET not in log


def test_an_operator_sees_what_a_peer_sends_and_when_it_left(
    browser: Browser, two: list[Site]
) -> None:
    north, south = two
    north.add_peer("south", south.url, "--no-forward")
    south.add_peer("north", north.url)
    page = log_in(browser, north, [])

    def receiving() -> str:
        page.goto(f"{north.server.http_url}/admin/dwsps_channels/peer/")
        return page.locator(".field-receiving").first.inner_text()

    assert receiving() == "not connected"
    worker = south.start_worker()
    wait_until(lambda: north.inbound("south").get("connections") == 1)
    wait_until(lambda: "connected, for" in receiving(), what="the list says that it is connected")
    with BlockingClient(south.url) as client:
        for number in range(3):
            client.publish("news", number)
    wait_until(lambda: north.inbound("south")["received"] == 3)
    assert "3 received" in receiving()

    page.click(".field-name a")
    expect(page.locator(".field-receiving_state")).to_contain_text("connected, for")
    expect(page.locator(".field-address")).to_contain_text("127.0.0.1")
    expect(page.locator(".field-received")).to_contain_text("3")

    worker.terminate()
    wait_until(lambda: north.inbound("south")["connections"] == 0)
    assert "left" in receiving()
    assert "3 received" in receiving()
    # What a process has counted outlives it.
    north.server.restart()
    assert re.fullmatch(r"left \d+ (s|min) ago · 3 received", receiving())


@pytest.mark.full_form
def test_an_operator_sees_what_waits_for_a_peer_that_is_away(
    browser: Browser, make_sites: MakeSites
) -> None:
    north, south = make_sites("north", "south")
    north.dwsps = {"TAIL_MESSAGES": 5}
    north.start_server()
    far = south.start_server()
    north.add_peer("south", south.url)
    south.add_peer("north", north.url, "--no-forward")
    north.start_worker()
    create_admin(north)
    page = log_in(browser, north, [])

    def shown(column: str) -> str:
        page.goto(f"{north.server.http_url}/admin/dwsps_channels/peer/")
        return page.locator(f".field-{column}").first.inner_text()

    wait_until(lambda: "connected" in shown("sending"), 20, "the list says that it is connected")
    assert shown("lag") == "0"
    far.terminate()
    with BlockingClient(north.url) as client:
        for number in range(3):
            client.publish("news", number)
    wait_until(lambda: shown("lag").startswith("3 · oldest"), 20, "the list says how much waits")
    [described] = json.loads(north.peers("list", "--json"))
    assert described["lag"] == 3
    assert described["lag_seconds"] >= 0
    assert f"process {north.workers[0].pid}" in north.peers("list").splitlines()[0]

    # More than half of what is kept waits.
    wait_until(lambda: "will lose messages in" in shown("lag"), 20, "the list foretells a loss")
    for width in (375, 1280):
        page.set_viewport_size({"width": width, "height": 667})
        assert page.evaluate(OVERFLOW) == 0

    far.start()
    wait_until(lambda: shown("lag") == "0", 30, "the list says that nothing waits any more")
    assert "connected" in shown("sending")
    assert shown("dropped") == "0"
