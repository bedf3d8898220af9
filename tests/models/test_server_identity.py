"""The server's id: one, whichever process asks first."""

import re
import subprocess
import sys

from dwsps_channels.models import ServerIdentity, server_id
from tests.processes import ROOT


def test_the_server_has_one_id(db: None) -> None:
    assert re.fullmatch("[0-9a-f]{32}", server_id())
    assert server_id() == server_id()
    assert ServerIdentity.objects.count() == 1


def test_processes_that_ask_for_the_id_at_once_get_the_same(
    database_environment: dict[str, str],
) -> None:
    program = (
        "import django; django.setup(); import sys; from dwsps_channels.models import server_id; "
        "print('ready', flush=True); sys.stdin.readline(); print(server_id())"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=database_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        ids = {child.communicate(timeout=20)[0] for child in children}
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert len(ids) == 1
    assert re.fullmatch("[0-9a-f]{32}\n", ids.pop())
