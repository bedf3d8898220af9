"""docs/how-to/htmx.md: fragments follow the database, for each user as far as they may see."""

import json
import shutil
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.project import Base, Project
from tests.processes import ROOT, missing

JS = ROOT / "tests" / "js"


@pytest.fixture(params=[pytest.param("htmx2", marks=pytest.mark.full_form), "htmx4"])
def orders(make_project: MakeProject, request: pytest.FixtureRequest) -> Project:
    """The page's project with this htmx and its tables."""
    package = JS / "node_modules" / request.param
    if not package.exists():
        missing(f"tests/js has no {request.param}: `make test` installs it")
    project = make_project("htmx")
    version = json.loads((package / "package.json").read_text())["version"]
    assert f"ersion {version} " in project.page.text
    library = package / "dist" / "htmx.min.js"
    shutil.copy(library, project.folder / "orders" / "static" / "orders")
    project.migrate("orders")
    return project


def execute(project: Project, sql: str, *parameters: str) -> None:
    """Change the database behind the project's back: nothing is published."""
    with closing(sqlite3.connect(project.folder / "db.sqlite3")) as connection, connection:
        connection.execute(sql, parameters)


def rows(window: Window) -> Any:
    return expect(window.find("#rows td:first-child"))


def test_fragments_follow_what_each_user_may_see(
    base: Base, orders: Project, open_window: OpenWindow
) -> None:
    orders.shell(
        "from django.contrib.auth.models import User; from orders.models import Order\n"
        "bob, eve = User.objects.get(username='bob'), User.objects.create_user('eve')\n"
        "Order.objects.create(customer=bob, item='tea')\n"
        "Order.objects.create(customer=eve, item='coffee')"
    )
    server = orders.start("python manage.py runserver")
    staff, bob = (open_window(orders.url("/orders/"), user) for user in (base.ada, base.bob))
    for window in (staff, bob):
        expect(window.find("#state")).to_have_text("live")

    # From another process; a burst, of which the last message is the one that counts.
    orders.shell(
        "from django.contrib.auth.models import User; from orders.models import Order\n"
        "bob = User.objects.get(username='bob')\n"
        "for n in range(1, 21): Order.objects.create(customer=bob, item=f'<i>{n}</i>')"
    )
    added = [f"<i>{n}</i>" for n in range(1, 21)]
    rows(bob).to_have_text(["tea", *added])
    rows(staff).to_have_text(["tea", "coffee", *added])
    expect(bob.find("#counter")).to_have_text("21")
    expect(staff.find("#counter")).to_have_text("22")

    # The button: CSRF, the answer in the list, and the message to the customer.
    expect(bob.find("#rows button")).to_have_count(0)
    staff.find("#rows button").first.click()
    for window, count in ((staff, "21"), (bob, "20")):
        expect(window.find("#rows tr").first).to_contain_text("done")
        expect(window.find("#counter")).to_have_text(count)

    # What changed without a message is there after a reconnection.
    execute(orders, "UPDATE orders_order SET done = 1 WHERE item = '<i>1</i>'")
    server.kill()
    come_back(server, staff, bob)
    expect(staff.find("#counter")).to_have_text("20")
    expect(bob.find("#counter")).to_have_text("19")
    for window in (staff, bob):
        expect(window.find("#state")).to_have_text("live")
        only_missed_the_server(window)

    # Logged out elsewhere: the page, not a fragment, becomes the login.
    execute(orders, "DELETE FROM django_session WHERE session_key = ?", base.bob)
    staff.find("#rows tr").filter(has_text="<i>2</i>").locator("button").click()
    expect(bob.find("form#login-form")).to_be_visible()
    assert bob.page.url.endswith("/admin/login/?next=/orders/")
    expect(bob.find("#rows")).to_have_count(0)
