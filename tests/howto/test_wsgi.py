"""docs/how-to/wsgi.md, tried as written: real gunicorn, real nginx, TLS, and the name example.org in Chromium."""

import re
import shlex
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Window, chromium
from tests.connections.fastlane.certificate import make_certificate
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.nginx import start_nginx
from tests.howto.project import Base, Program, Project
from tests.processes import HOST, free_port, wait_until

UNITS = "/etc/systemd/system/myproject-{}.service"

# To run in a page: the status of a URL.
STATUS = "(url) => fetch(url).then((response) => response.status)"

# Publishing without a transaction, in a process that finds no server.
PUBLISH = """
from dwsps_channels import publish
try:
    publish("news", 1)
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def https_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def browser(https_port: int) -> Iterator[Browser]:
    """One for which example.org is the test's nginx."""
    with chromium(f"--host-resolver-rules=MAP example.org:443 {HOST}:{https_port}") as browser:
        yield browser


def start_unit(project: Project, name: str, port: int) -> Program:
    """Start what systemd would start."""
    unit = project.page.files[UNITS.format(name)]
    [command] = re.findall("^ExecStart=(.+)$", unit, re.MULTILINE)
    return project.start_program(shlex.split(project.adapt(command)), port=project.port(port))


def start_proxy(project: Project, port: int) -> Program:
    certificate = make_certificate(project.folder)
    printed = project.adapt(project.page.files["/etc/nginx/conf.d/myproject.conf"])
    for ours, theirs in (
        ("listen 443 ssl", f"listen {HOST}:{port} ssl"),
        ("/etc/ssl/example.org.pem", str(certificate.public)),
        ("/etc/ssl/example.org.key", str(certificate.key)),
    ):
        assert printed.count(ours) == 1
        printed = printed.replace(ours, theirs)
    return start_nginx(project, printed, port)


def publish(window: Window, text: str) -> None:
    window.find("input[name=text]").fill(text)
    window.find("button").click()


def shows(window: Window, state: str, *headlines: str) -> None:
    expect(window.find("#state")).to_have_text(state)
    expect(window.find("#headlines li")).to_have_text(list(headlines))


def health(window: Window) -> list[int]:
    return [window.page.evaluate(STATUS, f"/health/{name}/") for name in ("pages", "websockets")]


def test_pages_go_on_without_the_websocket_process(
    base: Base, make_project: MakeProject, open_window: OpenWindow, https_port: int
) -> None:
    project = make_project("wsgi")
    (project.folder / ".venv").symlink_to(sys.prefix)
    project.migrate("news")
    project.type("python manage.py collectstatic")
    pages = start_unit(project, "pages", 8001)
    websockets = start_unit(project, "websockets", 8002)
    nginx = start_proxy(project, https_port)

    one, two, monitor = (open_window("https://example.org/") for _ in range(3))
    shows(one, "live")
    shows(two, "live")
    assert health(monitor) == [200, 200]
    publish(one, "Sun")
    shows(two, "live", "Sun")

    websockets.kill()
    shows(two, "reconnecting", "Sun")
    publish(one, "Rain")
    shows(one, "reconnecting", "Rain", "Sun")
    log = project.folder / "myproject.log"
    wait_until(lambda: '"GET /ws/pubsub/ HTTP/1.1" 502' in log.read_text(), what="a line")
    assert "/ws/pubsub/?" not in log.read_text() + nginx.log
    assert health(monitor) == [200, 502]
    assert "publish() lost messages: 1, 1 since the start" in pages.log
    assert project.shell(PUBLISH) == "NotServing\n"
    # The page of the first window is from before, and was made while nobody could tell a cursor.
    publish(two, "Wind")
    shows(two, "reconnecting", "Wind", "Rain", "Sun")

    come_back(websockets, one, two, monitor)
    for window in (one, two, monitor):
        shows(window, "live", "Wind", "Rain", "Sun")

    only_missed_the_server(one)
    only_missed_the_server(two)
    monitor.complaints.clear()
    assert pages.terminate() == 0
