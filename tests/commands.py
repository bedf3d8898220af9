"""Runs `manage.py` commands for tests: one process that has imported Django, and forks for each command.

Most of what a command costs is to start Python and to import Django. A fork has both. The settings, the apps and the
command are loaded in the fork, in an environment that is the command's alone.

A request and its answer are a line of JSON each: `{"arguments": […], "env": {…}}`, and `{"status": 0, "out": …, "err": …}`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent

TIMEOUT = 60


class Commands:
    """The process, started with the first command. Its stdin ends with the test run, and so it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(self, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `manage.py` with these arguments and this environment, and nothing on stdin."""
        # As for any other process: a test has to say that it starts one.
        sys.audit("os.fork")
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.commands"],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            print(json.dumps({"arguments": arguments, "env": dict(env)}), file=self._process.stdin)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the process for commands has ended"
        done = json.loads(answer)
        return subprocess.CompletedProcess(arguments, done["status"], done["out"], done["err"])


def serve() -> None:
    """Run the commands that come on stdin, one after the other, until its end."""
    import_django()
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if not (pid := os.fork()):
                run(request["arguments"], request["env"], out, err)
            _, status = os.waitpid(pid, 0)
            texts = {}
            for name, file in (("out", out), ("err", err)):
                file.seek(0)
                texts[name] = file.read().decode(errors="replace")
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)} | texts), flush=True)


def import_django() -> None:
    """Import what commands need, as far as it goes without settings."""
    import django.contrib.admin
    import django.core.management
    import django.db.backends.sqlite3.base
    import django.http
    import django.urls  # noqa: F401

    import dwsps_channels.client  # noqa: F401


def run(arguments: Sequence[str], env: Mapping[str, str], out: BinaryIO, err: BinaryIO) -> None:
    """Be `manage.py`. Does not return."""
    status = 1
    try:
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["manage.py", *arguments]
        sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
        signal.alarm(TIMEOUT)

        from manage import main

        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
