"""docs/how-to/celery-progress.md, tried as written."""

from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow
from tests.howto.project import Base
from tests.howto.users import become, may_subscribe
from tests.processes import Redis, wait_until

# To run in a page: keep every value that the bar has.
WATCH = """() => {
    const bar = document.getElementById('bar')
    window.values = []
    new MutationObserver(() => window.values.push(bar.value)).observe(bar, { attributes: true })
}"""

# A task whose work fails in the middle, in a process beside the server as a worker is.
FAIL = """
from exports import tasks

def write_row(number):
    assert number < 100

tasks.write_row = write_row
try:
    tasks.run_export(2)
except AssertionError:
    print("failed")
"""


def shows(window: Window, state: str, percent: int) -> None:
    expect(window.find("#state")).to_have_text(state)
    expect(window.find("#bar")).to_have_js_property("value", percent)


def test_bar_moves_for_the_owner(
    base: Base, make_project: MakeProject, open_window: OpenWindow, redis: Redis
) -> None:
    project = make_project("celery-progress", ports={6379: redis.port})
    project.migrate("exports")
    project.start("python manage.py runserver")
    window = open_window(project.url("/exports/"), base.ada)
    window.find("button").click()
    window.page.wait_for_url("**/exports/1/")
    shows(window, "waiting", 0)
    window.page.evaluate(WATCH)
    second = open_window(window.page.url, base.ada)
    shows(second, "waiting", 0)
    for each in (window, second):
        # Frames are seen between two looks at the page.
        wait_until(lambda each=each: each.page.title() and each.sent, what="it subscribes")  # type: ignore[misc]
    # The task waits in Redis until there is a worker.
    worker = project.start("celery", ready=" ready.")
    shows(window, "done", 100)
    shows(second, "done", 100)
    seen = window.page.evaluate("values")
    assert seen == sorted(seen)
    assert len(set(seen)) > 10

    late = open_window(window.page.url, base.ada)
    shows(late, "done", 100)
    assert worker.terminate() == 0

    # The task waits, runs and fails.
    window.page.goto(project.url("/exports/"))
    window.find("button").click()
    window.page.wait_for_url("**/exports/2/")
    shows(window, "waiting", 0)
    assert project.shell(FAIL) == "failed\n"
    shows(window, "failed", 49)

    assert may_subscribe(window, "exports.2")
    assert not may_subscribe(window, "exports")
    become(window, base.bob)
    assert not may_subscribe(window, "exports.2")
    response = window.page.reload()
    assert response is not None
    assert response.status == 404
    window.complaints.clear()
