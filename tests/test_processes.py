import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import (
    FORKS,
    HOST,
    MEASURED,
    ROOT,
    Child,
    Redis,
    Server,
    ServerFactory,
    base_environment,
    free_port,
    manage,
    server_command,
    wait_until,
    wait_until_async,
)

pytestmark = pytest.mark.processes

LISTEN = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening")
while True:
    listener.accept()
"""


def listening_child(folder: Path, program: str = LISTEN) -> Child:
    port = free_port()
    command = [sys.executable, "-u", "-c", program, str(port)]
    return Child("child", command, port=port, env={}, folder=folder)


def forked_server(folder: Path) -> Server:
    port = free_port()
    command = [*server_command("uvicorn", port), "project.asgi:application"]
    env = base_environment(folder / "none.sqlite3")
    return Server("server", command, port=port, env=env, folder=folder)


@pytest.mark.parametrize("make", [listening_child, forked_server])
def test_child_is_killed_when_the_test_run_is(
    tmp_path: Path, make: Callable[[Path], Child]
) -> None:
    run = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            f"from pathlib import Path; from tests.test_processes import {make.__name__};"
            f"print({make.__name__}(Path({str(tmp_path)!r})).start().pid, flush=True);"
            "import time; time.sleep(60)",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert is_running(pid)
    finally:
        run.kill()
        run.communicate()
    wait_until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_child_that_ends_before_it_listens_is_reported_with_its_log(tmp_path: Path) -> None:
    child = listening_child(tmp_path, "print('no luck'); raise SystemExit(3)")
    with pytest.raises(AssertionError, match=r"ended with status 3\n(.*\n)*no luck"):
        child.start()
    assert child not in Child.known


def test_child_is_restarted_on_its_port_and_keeps_its_log(tmp_path: Path) -> None:
    with Child.all_closed() as children:
        child = listening_child(tmp_path)
        children.append(child)
        first = child.start().pid
        child.restart()
        assert child.pid != first
        wait_until(lambda: child.log.count("listening") == 2)
    assert not is_running(child.pid)


def test_child_tells_what_ended_it_and_how_much_memory_it_takes(tmp_path: Path) -> None:
    with Child.all_closed() as children:
        child = listening_child(tmp_path)
        children.append(child)
        assert 2**20 < child.start().rss() < 2**28
        assert child.exit_status is None
        assert child.terminate() == child.exit_status == -signal.SIGTERM


def test_free_port_can_be_listened_on_again_and_is_not_an_outgoing_one() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < first_outgoing


def test_redis_listens_where_it_says(redis: Redis) -> None:
    assert redis.url == f"redis://{HOST}:{redis.port}/0"
    assert os.path.exists(f"/proc/{redis.pid}")


async def test_waiting_gives_what_the_condition_gave() -> None:
    answers = iter([0, None, "here"])
    assert wait_until(lambda: next(answers)) == "here"

    async def answer() -> list[int]:
        return [1]

    assert await wait_until_async(answer) == [1]


async def test_waiting_in_vain_says_what_for() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.02 s: rain"):
        wait_until(lambda: False, 0.02, "rain")
    with pytest.raises(AssertionError, match=r"not within 0\.02 s: rain"):
        await wait_until_async(lambda: False, 0.02, "rain")


def test_a_command_has_an_environment_to_itself_and_says_why_it_failed(tmp_path: Path) -> None:
    def database(name: str) -> str:
        env = base_environment(tmp_path / name)
        program = "from django.db import connection; print(connection.settings_dict['NAME'])"
        return manage("shell", "-v", "0", "-c", program, env=env).strip()

    assert [database("a"), database("b")] == [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(AssertionError, match="invalid choice: 'nonsense'"):
        manage("peers", "nonsense", env=base_environment(tmp_path / "a"))
    with pytest.raises(AssertionError, match="DEBUG is 'perhaps': use 1 or 0"):
        manage("check", env=base_environment(tmp_path / "a") | {"DEBUG": "perhaps"})


def test_after_the_process_that_forks_has_ended_another_one_starts(tmp_path: Path) -> None:
    env = base_environment(tmp_path / "none.sqlite3")
    version = manage("version", env=env)
    assert FORKS._process is not None
    FORKS._process.kill()
    FORKS._process.wait()
    with pytest.raises(AssertionError, match="the process that forks has ended"):
        manage("version", env=env)
    assert manage("version", env=env) == version


def test_a_server_is_a_child_of_the_test_run_with_a_session_of_its_own(server: Server) -> None:
    # Those that coverage.py measures are not forked.
    assert FORKS.can_start(server.command, env=server.env) == (MEASURED not in server.env)
    stat = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[1]) == os.getpid()
    assert os.getsid(server.pid) == server.pid
    assert os.readlink(f"/proc/{server.pid}/fd/2") == str(server.log_file)


def test_a_server_that_is_told_to_end_has_the_exit_status_that_it_ends_with(
    start_server: ServerFactory,
) -> None:
    server = start_server("uvicorn")
    # uvicorn has ended in its own time, and says by which signal.
    assert server.terminate() == server.exit_status == -signal.SIGTERM
    assert "Finished server process" in server.log
    with pytest.raises(AssertionError, match=r"ended with status 3\n(.*\n)*.*no_such_module"):
        start_server("uvicorn", application="no_such_module:application")


def test_a_port_is_given_once() -> None:
    """It may be that of a server that is away. Of 500 random ones some would be the same."""
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == 500
    program = "from tests.processes import _PORTS; print(*map(_PORTS.take, map(int, sys.argv[1:])))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}", *map(str, ports)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == {"False"}
