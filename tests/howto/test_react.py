"""docs/how-to/react.md, tried as written."""

import pytest
from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.npm import install, start_vite
from tests.processes import wait_until


def shows(window: Window, *votes: int) -> None:
    expect(window.find("output")).to_have_text([str(count) for count in votes])


def vote(window: Window, choice: str) -> None:
    window.find(f"li:has-text('{choice}') button").click()


def hide(window: Window) -> None:
    """Take the component away, and wait until its subscription is given back."""
    window.find("input").uncheck()
    expect(window.find("output")).to_have_count(0)
    # Frames are seen between two looks at the page.
    wait_until(lambda: window.page.title() and window.sent[-1]["type"] == "unsubscribe")


@pytest.mark.full_form
def test_poll_is_live_from_vite_and_as_built(
    make_project: MakeProject, open_window: OpenWindow
) -> None:
    project = make_project("react")
    install(project)
    project.type("npm --prefix frontend run build")
    project.migrate("polls")
    project.type("python manage.py shell")
    server = project.start("python manage.py runserver")
    start_vite(project)
    built = open_window(project.url("/"))
    developed = open_window(project.url("/", port=5173))
    for window in (built, developed):
        shows(window, 0, 0)
        expect(window.find("[role=status]")).to_have_count(0)

    requests: list[str] = []
    developed.page.on("request", lambda request: requests.append(request.url))
    for count, window in enumerate((built, developed), 1):
        vote(window, "Pizza")
        for each in (built, developed):
            shows(each, 0, count)
    for window in (built, developed):
        hide(window)
    # Once for each vote, though StrictMode subscribes twice.
    assert requests.count(project.url("/api/choices/", port=5173)) == 2
    for window in (built, developed):
        window.find("input").check()
        shows(window, 0, 2)

    developed.page.evaluate("window.isTheSame = true")
    source = project.folder / "frontend" / "src" / "Poll.tsx"
    source.write_text(source.read_text().replace(">Vote<", ">Choose<"))
    expect(developed.find("li button").first).to_have_text("Choose")
    assert developed.page.evaluate("window.isTheSame")

    server.kill()
    for window in (built, developed):
        expect(window.find("[role=status]")).to_have_text("reconnecting…")
    project.shell("from polls.models import Choice; Choice.objects.update(votes=7)")
    come_back(server, built, developed)
    for window in (built, developed):
        shows(window, 7, 7)
        expect(window.find("[role=status]")).to_have_count(0)

    for window in (built, developed):
        only_missed_the_server(window)
