"""Processes killed while they publish durable messages; the log is in Redis."""

from pathlib import Path

import pytest

from tests.durable.killing import (
    POSTGRES,
    REDIS,
    SQLITE,
    pages_killed,
    sent_once_within_ten_seconds,
    server_and_worker_killed,
)
from tests.form import RELEASE
from tests.processes import Child, Server

pytestmark = [pytest.mark.processes, pytest.mark.parametrize("broker", [REDIS])]


@pytest.mark.parametrize("database_kind", [SQLITE, POSTGRES] if RELEASE else [SQLITE])
async def test_what_was_committed_is_sent_once_within_ten_seconds(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    await sent_once_within_ten_seconds(server, tmp_path, children)


@pytest.mark.full_form
@pytest.mark.parametrize("database_kind", [POSTGRES])
async def test_a_process_that_serves(server: Server, tmp_path: Path, children: list[Child]) -> None:
    await pages_killed(server, tmp_path, children)


@pytest.mark.full_form
@pytest.mark.parametrize("database_kind", [SQLITE])
async def test_the_server_and_the_worker_as_well(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    await server_and_worker_killed(server, tmp_path, children)
