"""docs/how-to/cross-origin.md, tried as written."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow
from tests.howto.npm import install, start_vite
from tests.processes import wait_until

PASSWORD = "a-long-password"
PREPARE = f"""
from django.contrib.auth.models import User
from django.core.management import call_command

call_command("migrate", verbosity=0)
for user in User.objects.all():
    user.set_password({PASSWORD!r})
    user.save()
"""
DEACTIVATE = """
from django.contrib.auth.models import User

user = User.objects.get(username="bob")
user.is_active = False
user.save()
"""


def log_in(window: Window, username: str, password: str = PASSWORD) -> None:
    window.find("[name=username]").fill(username)
    window.find("[name=password]").fill(password)
    window.find("button").click()


def write(window: Window, line: str) -> None:
    window.find("[name=line]").fill(line)
    window.find("[name=line]").press("Enter")


def tokens(window: Window) -> list[str]:
    return [frame["token"] for frame in window.sent if frame["type"] == "authenticate"]


def test_users_log_in_and_write_until_they_are_out(
    make_project: MakeProject, open_window: OpenWindow
) -> None:
    project = make_project("cross-origin")
    install(project)
    project.type("npm --prefix frontend run build")
    project.shell(PREPARE)
    view = Path(project.folder, "myproject", "api.py")
    # Long enough for a busy machine to use a token, and to renew it.
    view.write_text(view.read_text().replace("minutes=15", "seconds=10"))
    server = project.start("python manage.py runserver")
    start_vite(project)
    ada, bob = (open_window(project.url("/", port=5173)) for _ in range(2))

    log_in(bob, "bob", "a-wrong-password")
    expect(bob.find("[role=status]")).to_have_text("Unknown user, or wrong password.")
    log_in(ada, "ada")
    log_in(bob, "bob")
    write(bob, "first")
    for window in (ada, bob):
        expect(window.find("li")).to_have_text(["first"])
    write(ada, "second")
    for window in (ada, bob):
        expect(window.find("li")).to_have_text(["first", "second"])

    # New tokens come on the connection that is open.
    before = tokens(ada)[-1]
    wait_until(lambda: ada.page.title() and tokens(ada)[-1] != before, 30, "a new token")
    assert server.log.count("WebSocket CONNECT") == 2

    project.shell(DEACTIVATE)
    expect(bob.find("[role=status]")).to_have_text("Your login has ended.")
    write(ada, "third")
    expect(ada.find("li")).to_have_text(["first", "second", "third"])

    # The answers to the wrong password and to the token that has ended, and what the page logs of the end.
    expected = ("401", "PSError: unauthorized: the user is not logged in any more")
    assert [line for line in bob.complaints if not any(text in line for text in expected)] == []
    bob.complaints.clear()
