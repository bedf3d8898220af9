"""docs/how-to/grants.md, tried as written."""

from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.project import Base
from tests.howto.users import may_subscribe

# What a page answers that brings another's grant.
SUBSCRIBE = """async ({ topic, grant }) => {
    const { url, script } = document.body.dataset
    const { PSClient } = await import(script)
    const client = new PSClient(url)
    try {
        return await client.subscribe(topic, null, { grant }).then(() => 'granted', (error) => error.reason)
    } finally {
        client.close()
    }
}"""


def shows(window: Window, state: str) -> None:
    expect(window.find("#state")).to_have_text(state)


def order_a_coffee(window: Window) -> str:
    """Return the topic of the order."""
    window.find("button").click()
    shows(window, "received")
    topic = window.find("body").get_attribute("data-topic")
    assert topic is not None
    return topic


def test_an_order_is_followed_by_who_has_placed_it(
    base: Base, make_project: MakeProject, open_window: OpenWindow
) -> None:
    project = make_project("grants")
    project.migrate("orders")
    server = project.start("python manage.py runserver")
    url = project.url("/orders/")
    bob, visitor, other = (open_window(url, session) for session in (base.bob, None, None))
    topic, others = order_a_coffee(bob), order_a_coffee(other)
    visitors = order_a_coffee(visitor)
    make = "python manage.py shell -c \"order = Order.objects.latest('pk'); order.state"

    project.type(make)
    shows(visitor, "ready")
    project.shell("for order in Order.objects.all(): order.state = 'ready'; order.save()")
    shows(bob, "ready")
    shows(other, "ready")

    grant = bob.find("body").get_attribute("data-grant")
    assert bob.page.evaluate(SUBSCRIBE, {"topic": topic, "grant": grant}) == "granted"
    assert not may_subscribe(bob, topic)
    for thief in (visitor, other):
        answer = thief.page.evaluate(SUBSCRIBE, {"topic": topic, "grant": grant})
        assert "another user's" in answer
    assert "another topic" in bob.page.evaluate(SUBSCRIBE, {"topic": others, "grant": grant})
    assert len({topic, others, visitors}) == 3

    server.kill()
    project.shell("for order in Order.objects.all(): order.state = 'cold'; order.save()")
    come_back(server, bob, visitor, other)
    for window in (bob, visitor, other):
        shows(window, "cold")
        only_missed_the_server(window)

    project.type('python manage.py shell -c "from dwsps_channels.access')
    for window in (bob, visitor, other):
        shows(window, "not available any more")
        # The view has no grant for it.
        assert all("404" in line for line in window.complaints)
        window.complaints.clear()
