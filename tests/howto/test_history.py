"""docs/how-to/history.md: pages that miss nothing, whatever happens to the connection."""

import pytest
from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.project import Base, Project


@pytest.fixture
def project(make_project: MakeProject) -> Project:
    project = make_project("history")
    project.migrate("news")
    return project


def lines(window: Window, of: str, *expected: str) -> None:
    expect(window.find(f"{of} li")).to_have_text(list(expected))


def is_live(window: Window) -> None:
    expect(window.find("#state")).to_have_text("live")


def write(window: Window, text: str) -> None:
    window.find("input[name=text]").fill(text)
    window.find("button").click()


def test_pages_have_everything_once(base: Base, project: Project, open_window: OpenWindow) -> None:
    server = project.start("python manage.py runserver")
    wall = open_window(project.url("/wall/"))
    headlines = open_window(project.url("/headlines/"))
    for window in (wall, headlines):
        is_live(window)
        assert "since=" in (window.find("body").get_attribute("data-url") or "")

    write(headlines, "Sun")
    lines(headlines, "#headlines", "Sun")
    is_live(headlines)
    for number in range(3):
        project.shell(
            f"from dwsps_channels import publish; publish('wall', {{'text': '{number}'}})"
        )
    lines(wall, "#wall", "0", "1", "2")

    # The first page from the history, and then what comes.
    write(wall, "3")
    lines(wall, "#wall", "0", "1", "2", "3")
    is_live(wall)
    project.shell("from dwsps_channels import publish; publish('wall', {'text': '4'})")
    lines(wall, "#wall", "0", "1", "2", "3", "4")

    # A key is published once.
    project.shell(
        "from dwsps_channels import publish\n"
        "for _ in range(2): publish('wall', {'text': '5'}, key='five')"
    )
    project.shell("from dwsps_channels import publish; publish('wall', {'text': '6'})")
    lines(wall, "#wall", *"0123456")

    # The log was in the memory of the process: the pages load again.
    server.kill()
    for window in (wall, headlines):
        expect(window.find("#state")).to_have_text("reconnecting")
    project.shell("from news.models import Headline; Headline.objects.create(text='Rain')")
    come_back(server, wall, headlines)
    lines(headlines, "#headlines", "Rain", "Sun")
    lines(wall, "#wall")
    for window in (wall, headlines):
        is_live(window)
        only_missed_the_server(window)
