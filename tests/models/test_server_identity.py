"""The server's id: one, whichever process asks first."""

import re

from dwsps_channels.models import ServerIdentity, server_id
from tests.processes import manage

# Processes that ask in the moment in which the pipe is closed.
ASK_AT_ONCE = """
import os
from dwsps_channels.models import server_id

reading, writing = os.pipe()
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        try:
            os.close(writing)
            os.read(reading, 1)
            print(server_id(), flush=True)
            os._exit(0)
        finally:
            os._exit(1)
    children.append(pid)
os.close(writing)
for pid in children:
    os.waitpid(pid, 0)
"""


def test_the_server_has_one_id(db: None) -> None:
    assert re.fullmatch("[0-9a-f]{32}", server_id())
    assert server_id() == server_id()
    assert ServerIdentity.objects.count() == 1


def test_processes_that_ask_for_the_id_at_once_get_the_same(
    database_environment: dict[str, str],
) -> None:
    printed = manage("shell", "--no-imports", "-c", ASK_AT_ONCE, env=database_environment)
    ids = printed.split()
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert re.fullmatch("[0-9a-f]{32}", ids[0])
