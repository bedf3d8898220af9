"""docs/how-to/notifications.md, tried as written."""

from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, only_missed_the_server
from tests.howto.project import Base

# To run in a window: whether the page's user may subscribe to a topic.
SUBSCRIBE = """async (topic) => {
    const { PSClient } = await import(document.body.dataset.script)
    const client = new PSClient(document.body.dataset.url)
    try {
        return await client.subscribe(topic).then(() => 'granted', (error) => error.code)
    } finally {
        client.close()
    }
}"""


def shows(window: Window, unread: int, latest: list[str]) -> None:
    expect(window.find("#unread")).to_have_text(str(unread))
    expect(window.find("#latest li")).to_have_text(latest)


def test_notifications_reach_one_user(
    base: Base, make_project: MakeProject, open_window: OpenWindow
) -> None:
    project = make_project("notifications")
    project.migrate("notifications")
    server = project.start("python manage.py runserver")
    one, two, other = (
        open_window(project.url("/notifications/"), user) for user in (base.ada, base.ada, base.bob)
    )
    for window in (one, two, other):
        shows(window, 0, [])

    notify = "python manage.py shell"
    project.type(notify)
    for window in (one, two):
        shows(window, 1, ["Your parcel is on its way"])
    shows(other, 0, [])

    one.find("button").click()
    for window in (one, two):
        shows(window, 0, ["Your parcel is on its way"])

    own, foreign = (
        two.find("body").get_attribute("data-topic"),
        other.find("body").get_attribute("data-topic"),
    )
    granted = {topic: other.page.evaluate(SUBSCRIBE, topic) for topic in (own, foreign, "users")}
    assert granted == {own: "forbidden", foreign: "granted", "users": "forbidden"}

    server.kill()
    project.type(notify)
    server.start()
    shows(two, 1, ["Your parcel is on its way"] * 2)
    for window in (one, two, other):
        only_missed_the_server(window)
