"""The processes of a benchmark: each on a core of its own, none left behind."""

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import HOST, ROOT

START_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
POLL_INTERVAL = 0.01
LOG_LINES = 5

# For the connections: some of all, and what a server opens besides.
SPARE_FILES = 500


class Failure(Exception):
    """A contestant could not be measured; the text says why."""


@dataclass(frozen=True)
class Cores:
    """One for the server, one for all else. On a machine of one core both are the same."""

    server: int
    generator: int

    @classmethod
    def choose(cls) -> "Cores":
        cores = sorted(os.sched_getaffinity(0))
        return cls(server=cores[-1], generator=cores[0])

    @property
    def shared(self) -> bool:
        return self.server == self.generator


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Keep processes that are started meanwhile on that core; ``None``: on any."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def most_files() -> Iterator[int]:
    """Meanwhile this process and its children may open as many files as can be; gives how many connections that is."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield max(0, before[1] - SPARE_FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def free_port() -> int:
    """Find a free port below those that the kernel hands out to clients."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


class Server:
    """A process that listens on a port; killed by the kernel when the benchmark dies without cleaning up."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        env: Mapping[str, str],
        core: int | None,
        log: Path,
    ) -> None:
        self._port = port
        self._log = log
        with log.open("wb") as output, on_core(core):
            self._process = subprocess.Popen(
                [*_leash(), *command],
                cwd=ROOT,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_accepts()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise Failure(f"it did not start: {self.last_words()}")
            with suppress(OSError), socket.create_connection((HOST, self._port), timeout=1.0):
                return
            if time.monotonic() > deadline:
                raise Failure(f"it did not come up within {START_TIMEOUT:g} s")
            time.sleep(POLL_INTERVAL)

    def resident_bytes(self) -> int:
        """Return its resident memory, once that has stopped changing."""
        before, now = -1, self._resident_bytes()
        deadline = time.monotonic() + STOP_TIMEOUT
        while now != before and time.monotonic() < deadline:
            time.sleep(0.25)
            before, now = now, self._resident_bytes()
        return now

    def _resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def last_words(self) -> str:
        """Return the end of its log, on one line."""
        lines = self._log.read_text(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-LOG_LINES:]) or "it said nothing"

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it is gone."""
        for number in (how, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_TIMEOUT)


def _leash() -> list[str]:
    # It replaces itself by the command, so the pid is the command's own.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
