"""Runs commands and servers for tests: one process has imported Django and the servers, and forks for each of them.

Most of what a command or the start of a server costs is to start Python and to import others' packages. A fork has
both. The settings, the apps and all that is ours are loaded in the fork, in an environment that is its own alone.

A request and its answer are a line of JSON each. A command runs to its end: ``{"command": ["check"], "env": {…}, "cwd": folder}``
is answered with ``{"status": 0, "out": …, "err": …}``. A server becomes a child of the process that asks, which takes Linux:
``{"server": ["-m", "uvicorn", …], "env": {…}, "cwd": folder, "log": file, "parent": pid}`` is answered with ``{"pid": …}``.
"""

import ctypes
import gc
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parent.parent

TIMEOUT = 60

# What a server may be: ``python -m`` of one of these, or ``python manage.py``.
MODULES = {"daphne", "uvicorn"}
SCRIPT = "manage.py"

# What commands and servers need and Django's settings have no say in. None of it is ours, since a module that is
# imported once for all might share with all servers what each is to have for itself. Nor is Twisted's reactor, whose
# files would be one for all.
IMPORTED = [
    "asgiref.sync",
    "autobahn.websocket.protocol",
    "channels.auth",
    "channels.db",
    "channels.generic.websocket",
    "channels.layers",
    "channels.routing",
    "channels.sessions",
    "channels_redis.core",
    "cryptography.fernet",
    "dj_database_url",
    "django.contrib.admin.sites",
    "django.contrib.sessions.backends.db",
    "django.contrib.staticfiles.handlers",
    "django.core.handlers.asgi",
    "django.core.management",
    "django.db.backends.sqlite3.base",
    "django.db.models",
    "django.forms",
    "django.http",
    "django.template.backends.django",
    "django.urls",
    "httptools",
    "msgspec",
    "redis.asyncio",
    "twisted.internet.protocol",
    "twisted.internet.ssl",
    "twisted.web.http",
    "uvicorn.lifespan.on",
    "uvicorn.logging",
    "uvicorn.main",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "websockets.asyncio.client",
    "websockets.sync.client",
    "whitenoise.middleware",
]

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Forks:
    """The process, started with the first request. Its stdin ends with the test run, and so it ends.

    If it ends before, one request fails, and the next one starts another.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(
        self, *arguments: str, env: Mapping[str, str], cwd: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        """Run the `manage.py` in ``cwd`` with these arguments and this environment, and nothing on stdin."""
        done = self._ask({"command": arguments, "env": dict(env), "cwd": str(cwd)})
        return subprocess.CompletedProcess(arguments, done["status"], done["out"], done["err"])

    def can_start(self, command: Sequence[str], *, env: Mapping[str, str]) -> bool:
        """Return whether ``start`` makes no difference: Python's own options and variables need one that starts."""
        match command:
            case [sys.executable, "-m", module, *_]:
                is_known = module in MODULES
            case [sys.executable, script, *_]:
                is_known = script == SCRIPT
            case _:
                is_known = False
        python = {name for name in env if name.startswith(("PYTHON", "COVERAGE"))}
        is_plain = python <= {"PYTHONPATH", "PYTHONUNBUFFERED"}
        # Elsewhere no process can adopt what another one has forked.
        return sys.platform == "linux" and is_known and is_plain

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` as the leader of a session; it is killed with this process. ``log`` gets its output."""
        request = {
            "server": command[1:],
            "env": dict(env),
            "cwd": str(cwd),
            "log": str(log),
            "parent": os.getpid(),
        }
        return Adopted(command, self._ask(request)["pid"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        # As for any other process: a test has to say that it starts one.
        sys.audit("os.fork")
        with self._lock, adopting() if "server" in request else nullcontext():
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.forks"],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    # Ctrl-C is for the test run.
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            with suppress(BrokenPipeError):  # then there is no answer either
                print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            if not answer:
                self._process.communicate()
                self._process = None
        assert answer, "the process that forks has ended"
        found: dict[str, Any] = json.loads(answer)
        return found


class Adopted(subprocess.Popen[bytes]):
    """A child of this process that another one has started."""

    def __init__(self, args: Sequence[str], pid: int) -> None:
        # All that its methods use, as `Popen` has it once it has started a process itself.
        self.args = args
        self.pid = pid
        self.returncode: Any = None
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()


@contextmanager
def adopting() -> Iterator[None]:
    """Meanwhile a descendant whose parent ends becomes a child of this process."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(PR_SET_CHILD_SUBREAPER, 0)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


# The process that forks.


def main() -> None:
    for name in IMPORTED:
        import_module(name)
    # For the commands that are about the client. It shares nothing.
    import_module("dwsps_channels.client")
    assert "twisted.internet.reactor" not in sys.modules
    gc.collect()
    gc.freeze()  # else the first collection in a fork would copy nearly all of its memory
    if (request := serve()) is not None:
        become(**request)


def serve() -> dict[str, Any] | None:
    """Answer the requests that come on stdin, one after the other, until its end. Return in the fork for a server with what it is to be."""
    for line in sys.stdin:
        request = json.loads(line)
        if "command" in request:
            answer = run_command(request["command"], request["env"], request["cwd"])
        elif pid := fork_twice():
            answer = {"pid": pid}
        else:
            return dict(request)
        print(json.dumps(answer), flush=True)
    return None


def fork_twice() -> int:
    """Return the pid of a grandchild whose parent is gone; 0 in the grandchild."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with open(reading) as lines:
            pid = int(lines.read())
        os.waitpid(child, 0)
        return pid
    if pid := os.fork():
        os.write(writing, b"%d" % pid)
        os._exit(0)
    os.close(reading)
    os.close(writing)
    return 0


def become(server: list[str], env: dict[str, str], cwd: str, log: str, parent: int) -> None:
    """Be a server that was started with these arguments of Python. Its end is that of this process."""
    deadline = time.monotonic() + TIMEOUT
    while os.getppid() != parent and time.monotonic() < deadline:
        time.sleep(0.001)  # not its child yet
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the test run has ended")
    os.setsid()
    # As a shell would have it, however the test run was started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(1, 2)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = unbuffered(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = unbuffered(2)  # type: ignore[misc]
    move(env, cwd)
    if server[0] == "-m":
        sys.argv = server[1:]
        runpy.run_module(server[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = server
        runpy.run_path(server[0], run_name="__main__")


def unbuffered(descriptor: int) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    # As `PYTHONUNBUFFERED` makes it.
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


def move(env: Mapping[str, str], cwd: str) -> None:
    """Be where a Python that is started in ``cwd`` with this environment is."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]


def run_command(arguments: Sequence[str], env: Mapping[str, str], cwd: str) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if not (pid := os.fork()):
            run(arguments, env, cwd, out, err)
        _, status = os.waitpid(pid, 0)
        texts = {}
        for name, file in (("out", out), ("err", err)):
            file.seek(0)
            texts[name] = file.read().decode(errors="replace")
    return {"status": os.waitstatus_to_exitcode(status)} | texts


def run(
    arguments: Sequence[str], env: Mapping[str, str], cwd: str, out: BinaryIO, err: BinaryIO
) -> None:
    """Be `manage.py`. Does not return."""
    status = 1
    try:
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        move(env, cwd)
        sys.argv = [SCRIPT, *arguments]
        signal.alarm(TIMEOUT)

        from manage import main

        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
