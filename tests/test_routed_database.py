"""A project whose ``default`` database is empty, as Django allows: every query goes where the router says."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.processes import (
    HOST,
    Child,
    base_environment,
    free_port,
    manage,
    wait_until_async,
)

SECRET = "correct-horse-battery-staple"

IN_THE_ADMIN = """
from django.contrib.auth.models import User
from django.test import Client
from dwsps_channels.models import Peer
browser = Client(headers={"host": "127.0.0.1"})
browser.force_login(User.objects.create_superuser("ada"))
pages = "/admin/dwsps_channels/peer/"
form = {"name": "b", "url": "ws://127.0.0.1:9/", "new_secret": "%s", "topics": "", "enabled": "on"}
peer = Peer.objects.get(name="self")
print([
    browser.get(pages).status_code,
    browser.post(pages + "add/", form | {"new_secret": "another-secret-that-is-long"}).status_code,
    browser.post(f"{pages}{peer.pk}/change/", form | {"name": "self", "url": peer.url, "forward": "on", "accept": "on"}).status_code,
    browser.post(pages, {"action": "disable", "_selected_action": [peer.pk]}).status_code,
    browser.post(pages, {"action": "test_connection", "_selected_action": [peer.pk]}).status_code,
])
"""


@pytest.mark.processes
async def test_the_worker_the_door_the_commands_and_the_admin(tmp_path: Path) -> None:
    database = tmp_path / "main.sqlite3"
    env = base_environment(database) | {"DJANGO_SETTINGS_MODULE": "tests.routed_settings"}
    manage("migrate", "--database", "main", "--verbosity", "0", env=env)
    port = free_port()
    (tmp_path / "secret").write_text(SECRET)
    # Leads to itself: what the worker finds out, it has to write.
    url = f"ws://{HOST}:{port}/ws/pubsub/"
    manage("peers", "add", "self", url, "--secret-file", str(tmp_path / "secret"), env=env)

    with Child.all_closed() as children:
        command = [sys.executable, "manage.py", "runpubsub", "--serve", f"{HOST}:{port}"]
        server = Child("all", command, port=port, env=env, folder=tmp_path)
        children.append(server)
        server.start()

        def state() -> str:
            [peer] = json.loads(manage("peers", "list", "--json", env=env))
            return str(peer["state"])

        await wait_until_async(lambda: "loop" in server.log)
        await wait_until_async(lambda: state() == "loop")
        headers = {"Authorization": f"Bearer {SECRET}"}
        async with connect(url, additional_headers=headers) as link:
            assert json.loads(await link.recv())["type"] == "hello"
            # The link answers pings meanwhile.
            said = await asyncio.to_thread(manage, "shell", "-c", IN_THE_ADMIN % SECRET, env=env)
            assert said.splitlines()[-1] == "[200, 302, 302, 302, 302]"
            # It is watched over, too: its row is disabled by now.
            assert json.loads(await link.recv())["code"] == "forbidden"
        assert server.terminate() == 0
        assert "Traceback" not in server.log
        assert "ImproperlyConfigured" not in server.log
