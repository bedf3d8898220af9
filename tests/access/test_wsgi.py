"""Access that is taken away by a process that serves no websockets: gunicorn's pages beside a server of one process."""

import json
import sys
from pathlib import Path

import pytest

from tests.access.browser import Browser
from tests.processes import HOST, Child, ServerFactory, free_port, wait_until_async

BACKENDS = "dwsps_channels.broker.backends"


@pytest.mark.parametrize(
    ("kind", "broker"),
    [("uvicorn", f"{BACKENDS}.MemoryBackend"), ("fastlane", f"{BACKENDS}.DatabaseBackend")],
    ids=["memory", "database"],
)
async def test_a_logout_under_gunicorn_ends_the_connections(
    start_server: ServerFactory, tmp_path: Path, kind: str, broker: str
) -> None:
    server = start_server(
        kind,
        application="tests.access.site:application",
        dwsps={"BROKER": {"BACKEND": broker}},
        env={"DJANGO_SETTINGS_MODULE": "tests.access.site_settings"},
    )
    port = free_port()
    command = [
        *(sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}", "--threads", "2"),
        "tests.access.site:wsgi",
    ]
    # It puts a socket to control it by into HOME.
    env = server.env | {"DWSPS_SERVER_URL": f"{server.url}/", "HOME": str(tmp_path)}
    site = Child("gunicorn", command, port=port, env=env, folder=tmp_path)
    try:
        site.start()
        browser, other = Browser(), Browser()
        await browser.visit(site, "sign_up", name="ann")
        await other.visit(site, "log_in", name="ann")
        async with browser.socket(server) as own, other.socket(server) as another:
            for socket in (own, another):
                await socket.connection.send(json.dumps({"type": "subscribe", "topic": "news"}))
            await wait_until_async(lambda: own.replies and another.replies)
            await browser.visit(site, "log_out")
            await wait_until_async(lambda: own.close_code == 4001, what="it is out")
            assert another.close_code is None
            await other.visit(site, "deactivate", name="ann")
            await wait_until_async(lambda: another.close_code == 4001, what="it is out")
    finally:
        site.close()
