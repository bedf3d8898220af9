"""docs/how-to/live-table.md, tried as written."""

from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.project import Base
from tests.howto.users import become, may_subscribe

# Messages of before a change, which arrive after it.
LATE = """
from dwsps_channels import publish
from kitchen.live import TOPIC

rice, pie = Order.objects.filter(dish__in=("Rice", "<b>Pie</b>"))
gone = pie.pk
pie.delete()
for pk, version in ((rice.pk, 1), (gone, 9)):
    publish(TOPIC, {"id": pk, "version": version, "row": "<tr><td>late</td></tr>"})
Order.objects.create(dish="Cake", table=3)
"""

# What happens while nobody serves. Soup and bread are on the board: one changes without a signal, one leaves it.
MEANWHILE = """
tea, rice, pie = (
    Order.objects.create(dish=dish, table=table) for table, dish in enumerate(("Tea", "Rice", "<b>Pie</b>"))
)
Order.objects.filter(dish="Soup").update(table=5)
Order.objects.filter(dish="Bread").update(status="served")
tea.delete()
rice.status = "cooking"
rice.save()
"""


def shows(board: Window, *rows: str) -> None:
    expect(board.find("#orders tr")).to_have_text(list(rows))


def test_table_follows_the_queryset(
    base: Base, make_project: MakeProject, open_window: OpenWindow
) -> None:
    project = make_project("live-table")
    project.migrate(
        "kitchen", "from kitchen.models import Order; Order.objects.create(dish='Bread', table=9)"
    )
    server = project.start("python manage.py runserver")
    board, admin = (
        open_window(project.url(path), base.ada) for path in ("/kitchen/", "/admin/kitchen/order/")
    )
    expect(board.find("#state")).to_have_text("live")
    shows(board, "9 Bread New")

    project.type("python manage.py shell")
    shows(board, "9 Bread New", "4 Soup New")

    admin.page.reload()
    admin.find("#result_list tr").filter(has_text="Soup").locator("select").select_option("cooking")
    admin.find("[name=_save]").click()
    shows(board, "9 Bread New", "4 Soup Cooking")

    server.kill()
    expect(board.find("#state")).to_have_text("reconnecting")
    project.shell(MEANWHILE)
    come_back(server, board)
    expect(board.find("#state")).to_have_text("live")
    shows(board, "5 Soup Cooking", "1 Rice Cooking", "2 <b>Pie</b> New")

    project.shell(LATE)
    shows(board, "5 Soup Cooking", "1 Rice Cooking", "3 Cake New")

    # The action changes many rows, and sends no signal.
    admin.page.reload()
    admin.find("#action-toggle").click()
    admin.find("select[name=action]").select_option("serve")
    admin.find("button[name=index]").click()
    shows(board)

    assert may_subscribe(board, "kitchen.orders")
    become(board, base.bob)
    assert not may_subscribe(board, "kitchen.orders")

    only_missed_the_server(board)
    admin.complaints.clear()  # it has no icon, and its scripts are Django's
