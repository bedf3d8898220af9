"""docs/how-to/notifications.md, tried as written."""

from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.project import Base
from tests.howto.users import may_subscribe


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

    own = two.find("body").get_attribute("data-topic")
    assert own is not None
    assert may_subscribe(two, own)
    assert not may_subscribe(other, own)
    assert not may_subscribe(two, "users")

    server.kill()
    project.type(notify)
    come_back(server, one, two, other)
    shows(two, 1, ["Your parcel is on its way"] * 2)
    for window in (one, two, other):
        only_missed_the_server(window)
