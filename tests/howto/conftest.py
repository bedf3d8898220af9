"""Fixtures for the tests of docs/how-to; `tests/howto/README.md` says how a page gets its test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import Window, chromium
from tests.howto.pages import Page
from tests.howto.project import Base, Program, Project, make_base
from tests.howto.users import log_in

MakeProject = Callable[..., Project]
OpenWindow = Callable[..., Window]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The project that every page begins with, and its users."""
    return make_base(tmp_path_factory.mktemp("howto"))


@pytest.fixture
def make_project(base: Base, tmp_path: Path) -> Iterator[MakeProject]:
    """Call it with a page, or the name of one of docs/how-to, to get its project; what is started in it ends after the test."""
    with Program.all_closed() as programs:

        def make(page: str | Page, ports: dict[int, int] | None = None) -> Project:
            if isinstance(page, str):
                page = Page.read(page)
            folder = tmp_path / page.name
            return Project(page, folder, base=base, programs=programs, ports=ports)

        yield make


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_window(browser: Browser) -> Iterator[OpenWindow]:
    """
    Call it with a URL and, for a user, the `sessionid` cookie, to get a window with that page.

    The browser must find nothing wrong with it until the test ends: see `only_missed_the_server`.
    """
    windows: list[Window] = []

    def open(url: str, session: str | None = None) -> Window:
        context = browser.new_context(ignore_https_errors=True)
        if session is not None:
            log_in(context, url, session)
        window = Window(context.new_page())
        windows.append(window)
        window.page.goto(url)
        return window

    yield open
    complaints = [window.complaints for window in windows]
    for window in windows:
        window.page.context.close()
    assert complaints == [[] for _ in windows]


def come_back(server: Program, *windows: Window) -> None:
    """Start a server that was killed, and have the pages connect to it."""
    server.start()
    for window in windows:
        window.connect_now()


def only_missed_the_server(window: Window) -> None:
    """Excuse a window for what a browser says of a websocket whose server is away, and for nothing else."""
    assert all("WebSocket" in line for line in window.complaints), window.complaints
    window.complaints.clear()
