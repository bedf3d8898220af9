"""A PostgreSQL as it is installed: each commit is on the disk before it is acknowledged."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import HOST
from benchmarks.processes import START_TIMEOUT, Failure, Server, free_port

# PostgreSQL refuses to run as root.
_USER = ("nobody", "nogroup")


def program(name: str) -> str | None:
    """Return the path of one of its programs, which Debian keeps out of the path, a folder a version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name) or next(
        (str(folder / name) for folder in folders if (folder / name).exists()), None
    )


@contextmanager
def postgres(core: int | None, log: Path) -> Iterator[str]:
    """Run a server with an empty database, and give its URL.

    Raises:
        Failure: it did not start; says why.
    """
    initdb, server = program("initdb"), program("postgres")
    if initdb is None or server is None:
        raise Failure("postgres is not installed")
    # Not in the folder of the benchmark, which is its user's alone.
    data = tempfile.mkdtemp(prefix="benchmarks-postgres-")
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(data, *_USER)
        as_user = ["setpriv", "--reuid", _USER[0], "--regid", _USER[1], "--clear-groups"]
        # The leash once more: a change of the user takes it off.
        as_user += ["--pdeathsig", "KILL", "--"]
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    try:
        made = subprocess.run(
            [*as_user, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"],
            cwd="/",
            env=env,
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise Failure(f"initdb failed: {made.stderr.strip()}")
        port = free_port()
        command = [*as_user, server, "-D", data, "-h", HOST, "-p", str(port)]
        running = Server(
            [*command, "-c", "unix_socket_directories="], port=port, env=env, core=core, log=log
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while "ready to accept connections" not in log.read_text():
                if time.monotonic() > deadline:
                    raise Failure(f"postgres did not come up: {running.last_words()}")
                time.sleep(0.01)
            yield f"postgres://postgres@{HOST}:{port}/postgres"
        finally:
            # Its fast shutdown: clients are disconnected.
            running.stop(signal.SIGINT)
    finally:
        shutil.rmtree(data, ignore_errors=True)
