"""
Real servers for tests: started on free ports of 127.0.0.1, waited for, and ended by their pid.

A child is killed by the kernel when the test run dies without cleaning up, so nothing is left behind even then. It
follows that a child is to be started from the main thread: the kernel means the thread that started it.

On Linux a server of ours is forked by `tests/forks.py`, which has imported what is not ours: it starts in a third of the
time.
"""

import asyncio
import fcntl
import inspect
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn, Self, TypeVar, overload

import psycopg
import pytest
from psycopg import sql

from tests.forks import Forks

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
FORKS = Forks()
# Has coverage.py measure a child process: `make coverage` sets it.
MEASURED = "COVERAGE_PROCESS_CONFIG"
KINDS = ("daphne", "uvicorn", "fastlane")

# A busy machine may take some seconds for what usually takes milliseconds.
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
WAIT_TIMEOUT = 30.0
POLL_INTERVAL = 0.01


def wait_until(condition: Callable[[], T], timeout: float = WAIT_TIMEOUT, what: str = "") -> T:
    """
    Call `condition` until it gives something true, and return that.

    Raises:
        AssertionError: `timeout` seconds have passed; says `what` did not happen.
    """
    deadline = time.monotonic() + timeout
    while True:
        # Once more after the deadline: it may have passed while this process stood still.
        is_late = time.monotonic() > deadline
        if result := condition():
            return result
        if is_late:
            raise AssertionError(_late(condition, timeout, what))
        time.sleep(POLL_INTERVAL)


@overload
async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout: float = ..., what: str = ...
) -> T: ...
@overload
async def wait_until_async(
    condition: Callable[[], T], timeout: float = ..., what: str = ...
) -> T: ...
async def wait_until_async(
    condition: Callable[[], Any], timeout: float = WAIT_TIMEOUT, what: str = ""
) -> Any:
    """Do as `wait_until`, leaving the event loop free between the calls; `condition` may be async."""
    async with asyncio.timeout(timeout + 10.0):  # for a condition that never returns
        deadline = time.monotonic() + timeout
        while True:
            is_late = time.monotonic() > deadline
            answer = condition()
            result = await answer if inspect.isawaitable(answer) else answer
            if result:
                return result
            if is_late:
                raise AssertionError(_late(condition, timeout, what))
            await asyncio.sleep(POLL_INTERVAL)


def _late(condition: Callable[[], object], timeout: float, what: str) -> str:
    return f"not within {timeout:g} s: {what or getattr(condition, '__qualname__', condition)}"


def require(*programs: str) -> str:
    """Give the path of the first of these programs that is installed. Without one the test is skipped; in CI it fails."""
    for program in programs:
        if path := shutil.which(program) or shutil.which(program, path="/usr/sbin"):
            return path
    missing(f"{programs[0]} is not installed: `make test` installs it if it may")


def missing(message: str) -> NoReturn:
    """Skip the test, or fail it in CI, where nothing may be left out unnoticed."""
    if os.environ.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(message)
    pytest.fail(message)


def free_port() -> int:
    """
    Give a port that nobody listens on. No test run on this machine is given it again before this process ends.

    So a server may be started on it later, may be away for a while, or may never be there. It is below those that the
    kernel hands out to outgoing connections, so that a server can come back to it after a restart.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            if _PORTS.take(port):
                return port


class _Ports:
    """The ports that test runs of this machine have taken: locks on the bytes of one file, which end with their process."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._file: BinaryIO | None = None

    def take(self, port: int) -> bool:
        """Take a port; False: another process has it, or this one took it before."""
        if self._file is None:
            # To close it, or another one of the same file, would end the locks.
            path = Path(tempfile.gettempdir()) / f"ports-of-tests-{os.geteuid()}"
            self._file = path.open("ab")
        if port in self._taken:
            return False
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._taken.add(port)
        return True


_PORTS = _Ports()


class Child:
    """
    A process that listens on a port.

    `name` is unique in `folder`, where its log is kept; `env` is all of its environment; it runs in `cwd`.
    """

    # Started and not yet closed, running or not: whose logs are shown when a test fails.
    known: ClassVar[list["Child"]] = []

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        env: Mapping[str, str],
        folder: Path,
        cwd: Path = ROOT,
    ) -> None:
        self.name = name
        self.command = command
        self.cwd = cwd
        self.port = port
        self.env = dict(env)
        self.log_file = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def all_closed(cls) -> Iterator[list[Self]]:
        """Give a list to put children on; all of them are killed at the end."""
        children: list[Self] = []
        try:
            yield children
        finally:
            for child in children:
                child.close()

    def start(self) -> Self:
        """
        Start the process, or start it anew on the same port, and wait until it accepts connections.

        Raises:
            AssertionError: it ended, or did not come up in time; holds its log.
        """
        assert self._process is None or self._process.poll() is not None, f"{self.name} is running"
        if self not in Child.known:
            Child.known.append(self)
        self._process = self._started()
        try:
            wait_until(self._accepts, START_TIMEOUT, f"{self.name} accepts connections")
        except BaseException as error:
            self.close()
            if isinstance(error, AssertionError):
                raise AssertionError(f"{error}\n{self.log}") from None
            raise
        return self

    def _started(self) -> subprocess.Popen[bytes]:
        if FORKS.can_start(self.command, env=self.env):
            return FORKS.start(self.command, env=self.env, cwd=self.cwd, log=self.log_file)
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [*_leash(), *self.command],
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the test run, which then ends its children in its own order.
                start_new_session=True,
            )

    def _accepts(self) -> bool:
        if self.exit_status is not None:
            raise AssertionError(f"{self.name} ended with status {self.exit_status}")
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0):
            return True
        return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_status(self) -> int | None:
        """As `subprocess` has it: None while it runs, negative where a signal ended it."""
        return self.process.poll()

    @property
    def log(self) -> str:
        """All that it has written, on stdout and stderr, before a restart too."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def rss(self) -> int:
        """Give the bytes of it that are in memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def suspend(self) -> None:
        """Stop it with SIGSTOP, until SIGCONT. Each of its threads has stopped then: a busy one runs on for a moment."""
        self.signal(signal.SIGSTOP)
        flags = os.WSTOPPED | os.WNOHANG
        wait_until(lambda: os.waitid(os.P_PID, self.pid, flags), STOP_TIMEOUT, "it is stopped")

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for its end and return the exit status; AssertionError after `timeout` seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout:g} s") from None

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """Ask it to end, wait for that, and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> int:
        """End it at once, as a crash would, and return the exit status."""
        self.process.kill()
        return self.process.wait()

    def restart(self) -> None:
        """Kill it and start it on the same port."""
        self.kill()
        self.start()

    def close(self) -> None:
        if self._process is not None:
            if MEASURED in self.env and self.exit_status is None:
                with suppress(AssertionError):
                    self.terminate()  # killed, it would not write what it has run
            self.kill()
        if self in Child.known:
            Child.known.remove(self)


def _leash() -> list[str]:
    # It replaces itself by the command, so the pid is the command's own.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


class Server(Child):
    """`project.asgi:application` under one of `KINDS`."""

    @property
    def url(self) -> str:
        """Of the websocket; a path may follow."""
        return f"ws://{HOST}:{self.port}"

    @property
    def http_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def manage(self, *arguments: str) -> str:
        """Run `manage.py` in this server's environment, and return what it wrote."""
        return manage(*arguments, env=self.env)


class Redis(Child):
    """A redis-server that keeps nothing on disk: it forgets all when it is restarted."""

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"


class Postgres(Child):
    """A PostgreSQL server. It keeps its data when it is restarted."""

    data: Path
    _database = "postgres"

    @property
    def url(self) -> str:
        """Of its database, for `DATABASE_URL`."""
        return self._url(self._database)

    def _url(self, database: str) -> str:
        return f"postgres://postgres@{HOST}:{self.port}/{database}"

    @contextmanager
    def copied_database(self) -> Iterator[None]:
        """Have a copy of its database, to which nobody may be connected, as its database; then the former again."""
        former, name = self._database, f"copy_{secrets.token_hex(4)}"
        with psycopg.connect(self._url("template1"), autocommit=True) as connection:
            names = map(sql.Identifier, (name, former))
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        self._database = name
        try:
            yield
        finally:
            self._database = former

    def _accepts(self) -> bool:
        # It listens before it is ready.
        return super()._accepts() and self.log.count("ready to accept connections") == self._starts

    _starts = 0

    def start(self) -> Self:
        self._starts += 1
        return super().start()

    def kill(self) -> int:
        """End all of its processes at once."""
        children: list[int] = []
        with suppress(FileNotFoundError):  # it has ended
            own = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            children = [int(pid) for pid in own.split()]
        status = super().kill()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # It cannot start while one of them has its shared memory.
        wait_until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in children),
            STOP_TIMEOUT,
            f"the processes of {self.name} are gone",
        )
        return status

    def close(self) -> None:
        # Killed, it would leave its shared memory behind.
        if self._process is not None and self.exit_status is None:
            self.signal(signal.SIGINT)
            with suppress(AssertionError):
                self.wait()
        super().close()
        shutil.rmtree(self.data, ignore_errors=True)


class ServerFactory:
    """Starts servers that share one database, unless told otherwise; `servers` gets each of them."""

    def __init__(self, servers: list[Server], *, folder: Path, database: Path) -> None:
        self.servers = servers
        self.folder = folder
        self.database = database

    def __call__(
        self,
        kind: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        dwsps: Mapping[str, object] | None = None,
        port: int | None = None,
        application: str = "project.asgi:application",
    ) -> Server:
        """
        Start a server and wait until it accepts connections.

        Args:
            kind: one of `KINDS`.
            arguments: more of them for the server's command line.
            env: what the environment has beyond a secret key, a database and 127.0.0.1 as an allowed host.
            dwsps: what the `DWSPS` setting has beyond what `env` makes of it; JSON values.
            port: a free one by default.
            application: what it serves, as `module:name`.
        """
        port = port or free_port()
        environment = base_environment(self.database) | dict(env or {})
        if dwsps is not None:
            environment["TEST_DWSPS"] = json.dumps(dwsps)
        server = Server(
            f"{kind}-{len(self.servers) + 1}",
            [*server_command(kind, port), *arguments, application],
            port=port,
            env=environment,
            folder=self.folder,
        )
        self.servers.append(server)
        return server.start()


def server_command(kind: str, port: int) -> list[str]:
    """As docs/how-to/deployment.md has it, but for what it says of proxies and logs."""
    match kind:
        case "daphne":
            endpoint = f"tcp:port={port}:interface={HOST}:backlog=2048"
            return [
                *(sys.executable, "-m", "daphne", "-e", endpoint),
                *("--websocket_connect_timeout", "20"),
            ]
        case "uvicorn":
            return [
                *(sys.executable, "-m", "uvicorn", "--host", HOST, "--port", str(port)),
                *("--timeout-graceful-shutdown", "5", "--ws-max-size", "1048576"),
                *("--http", "dwsps_channels.fastlane:HttpProtocol"),
            ]
        case "fastlane":
            return [
                *(sys.executable, "-m", "uvicorn", "--host", HOST, "--port", str(port)),
                *("--timeout-graceful-shutdown", "5"),
                *("--ws", "dwsps_channels.fastlane:Protocol"),
                *("--loop", "dwsps_channels.fastlane:new_loop"),
            ]
        case _:
            raise ValueError(f"no such kind of server: {kind!r}")


def base_environment(database: Path) -> dict[str, str]:
    """Return the environment that the demo project needs to start with DEBUG off.

    It is made from nothing but what programs need to run at all: the test run's own environment has other settings.
    """
    names = ("HOME", "LANG", "PATH", MEASURED)
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {
        "ALLOWED_HOSTS": HOST,
        "DATABASE_URL": f"sqlite:///{database}",
        "DJANGO_SETTINGS_MODULE": "tests.server_settings",
        # As by default, but meant so.
        "DWSPS_POLICY": "dwsps_channels.policies.AllowAll",
        "PYTHONUNBUFFERED": "1",
        "SECRET_KEY": "only-for-servers-of-tests-" + "x" * 50,
    }


def manage(*arguments: str, env: Mapping[str, str]) -> str:
    """Run `manage.py` and return what it wrote to stdout; AssertionError, with stderr, where it failed."""
    done = FORKS.run(*arguments, env=env)
    assert done.returncode == 0, f"manage.py {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def redis_server(folder: Path) -> Redis:
    """Make a redis-server, not yet started; where none is installed the test is skipped, or fails in CI."""
    port = free_port()
    command = [
        *(require("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(folder)),
        *("--save", "", "--appendonly", "no"),
    ]
    return Redis(
        f"redis-{port}", command, port=port, env={"PATH": os.environ["PATH"]}, folder=folder
    )


def postgres_server(folder: Path, *, keeps_commits: bool = False) -> Postgres:
    """
    Make a PostgreSQL server, not yet started; without one installed the test is skipped, or fails in CI.

    Its data go when it is closed. With ``keeps_commits`` it has all that it has committed after it was killed.
    """
    # Not in `folder`, which is its user's alone: PostgreSQL refuses to run as root.
    data = Path(tempfile.mkdtemp(prefix="postgres-of-tests-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(data, "nobody", "nogroup")
        # The leash once more: a change of the user takes it off.
        as_user = [
            *(require("setpriv"), "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"),
            *("--pdeathsig", "KILL", "--"),
        ]
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    made = subprocess.run(
        [
            *(*as_user, _postgres_program("initdb"), "--pgdata", str(data)),
            *("--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--no-sync"),
        ],
        cwd="/",
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    port = free_port()
    command = [
        *(*as_user, _postgres_program("postgres"), "-D", str(data), "-h", HOST, "-p", str(port)),
        # Neither a socket in a folder that all share, nor a write to the disk that is waited for.
        *("-c", "unix_socket_directories=", "-c", "fsync=off"),
        *("-c", f"synchronous_commit={'on' if keeps_commits else 'off'}"),
    ]
    server = Postgres(f"postgres-{port}", command, port=port, env=env, folder=folder)
    server.data = data
    return server


def _postgres_program(name: str) -> str:
    """Debian keeps the server's programs, a folder a version, out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which(name) or next(
        (str(folder / name) for folder in reversed(folders) if (folder / name).exists()), None
    )
    if found is None:
        missing(f"PostgreSQL ({name}) is not installed: `make test` installs it if it may")
    return found
