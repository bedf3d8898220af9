"""Processes killed while they publish durable messages, and servers that are away; the log is in the server's memory."""

import sys
from pathlib import Path

import pytest

from tests.durable.crasher import MOMENTS
from tests.durable.killing import (
    MEMORY,
    POSTGRES,
    SQLITE,
    all_rows_go,
    crash_page,
    logged,
    rows,
    run_crasher,
    sent_once_within_ten_seconds,
    start_worker,
)
from tests.form import RELEASE
from tests.processes import (
    HOST,
    Child,
    Server,
    base_environment,
    free_port,
    manage,
    wait_until_async,
)


@pytest.mark.processes
@pytest.mark.parametrize("broker", [MEMORY])
@pytest.mark.parametrize("database_kind", [SQLITE, POSTGRES] if RELEASE else [SQLITE])
async def test_what_was_committed_is_sent_once_within_ten_seconds(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    await sent_once_within_ten_seconds(server, tmp_path, children)


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(MEMORY, SQLITE)])
async def test_a_worker_of_gunicorn(server: Server, tmp_path: Path, children: list[Child]) -> None:
    start_worker(server, tmp_path, children)
    port = free_port()
    pages = Child(
        "gunicorn",
        # Each worker that is killed has a successor, which need not load the site again.
        [
            *(sys.executable, "-m", "gunicorn", "--preload", "--bind", f"{HOST}:{port}"),
            "tests.durable.site",
        ],
        port=port,
        env={
            **server.env,
            "DJANGO_SETTINGS_MODULE": "tests.durable.site_settings",
            "HOME": str(tmp_path),
        },
        folder=tmp_path,
    )
    children.append(pages)
    pages.start()
    for number, moment in enumerate(MOMENTS):
        await crash_page(f"http://{HOST}:{port}/crash/{moment}/{number}")
    await all_rows_go(server)
    assert sorted(logged(server)) == list(range(len(MOMENTS)))


@pytest.mark.processes
async def test_a_worker_that_serves_publishes_in_its_server(
    database: Path, tmp_path: Path, children: list[Child]
) -> None:
    """Nobody has connected to it: its SERVER_URL leads nowhere."""
    env = base_environment(database) | {"DWSPS_SERVER_URL": f"ws://{HOST}:{free_port()}/ws/pubsub/"}
    await run_crasher(env, MOMENTS[:2])
    port = free_port()
    command = [sys.executable, "manage.py", "runpubsub", "--serve", f"{HOST}:{port}"]
    server = Server("serve", command, port=port, env=env, folder=tmp_path)
    children.append(server)
    server.start()
    await all_rows_go(server)
    server.env["DWSPS_SERVER_URL"] = f"{server.url}/ws/pubsub/"
    assert sorted(logged(server)) == [0, 1]
    assert server.terminate() == 0
    assert "Traceback" not in server.log


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(MEMORY, SQLITE)])
async def test_a_server_that_is_away_when_it_is_published(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    worker = start_worker(server, tmp_path, children)
    server.terminate()
    source = "from dwsps_channels import publish; print(publish('news', 1, durable=True))"
    assert manage("shell", "-c", source, env=server.env).splitlines()[-1] == "None"
    await wait_until_async(lambda: "durable messages wait" in worker.log)
    [waiting] = await rows(server)
    assert (waiting["topic"], waiting["messages"]) == ("news", 1)
    assert waiting["last_error"] == "the server cannot be reached: connection refused"
    server.start()
    await all_rows_go(server)
    assert logged(server) == [1]
    assert worker.log.count("durable messages wait") == 1
