"""A hook that runs before the server ends, by real signals and under a real reactor."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import uvicorn

from dwsps_channels.server.shutdown import before_shutdown
from tests.connections.transports.contract import until

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
OF_SERVERS = SIGNALS[:2]


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Remove what a test installs."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` ignores
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


class Ends:
    """A record of events, in order. It stands in for a server that ends by a signal, and for what it does before."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.may_finish = asyncio.Event()
        for signum in OF_SERVERS:
            signal.signal(signum, self.end)

    def end(self, signum: int, frame: FrameType | None) -> None:
        self.log.append(f"server: {signal.Signals(signum).name}")

    async def hook(self) -> None:
        self.log.append("hook begins")
        await self.may_finish.wait()
        self.log.append("hook ends")

    async def has_logged(self, *log: str) -> None:
        await until(lambda: len(self.log) >= len(log))
        assert self.log == list(log)


class TestSignals:
    async def test_a_hangup_is_as_sigterm(self) -> None:
        ends = Ends()
        before_shutdown(ends.hook)
        signal.raise_signal(signal.SIGHUP)
        await ends.has_logged("hook begins")
        signal.raise_signal(signal.SIGHUP)
        await ends.has_logged("hook begins", "server: SIGTERM")
        ends.may_finish.set()
        await ends.has_logged("hook begins", "server: SIGTERM", "hook ends", "server: SIGTERM")

    @pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda signum, frame: None])
    async def test_a_hangup_that_is_ignored_or_means_something_else_stays_so(
        self, handler: Any
    ) -> None:
        ends = Ends()
        signal.signal(signal.SIGHUP, handler)
        before_shutdown(ends.hook)
        assert signal.getsignal(signal.SIGHUP) is handler

    async def test_a_hangup_without_a_server_is_left_alone(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        before_shutdown(never)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL

    @pytest.mark.parametrize("signum", OF_SERVERS)
    async def test_the_server_is_told_once_the_hook_is_done(self, signum: signal.Signals) -> None:
        ends = Ends()
        before_shutdown(ends.hook)
        signal.raise_signal(signum)
        await ends.has_logged("hook begins")
        ends.may_finish.set()
        await ends.has_logged("hook begins", "hook ends", f"server: {signum.name}")

    async def test_a_second_one_is_passed_on_at_once(self) -> None:
        ends = Ends()
        before_shutdown(ends.hook)
        signal.raise_signal(signal.SIGTERM)
        await ends.has_logged("hook begins")
        signal.raise_signal(signal.SIGTERM)
        await ends.has_logged("hook begins", "server: SIGTERM")
        ends.may_finish.set()
        await ends.has_logged("hook begins", "server: SIGTERM", "hook ends", "server: SIGTERM")

    async def test_a_hook_that_raises_stops_nothing(self) -> None:
        ends = Ends()

        async def broken() -> None:
            raise ZeroDivisionError

        before_shutdown(broken)
        signal.raise_signal(signal.SIGTERM)
        await ends.has_logged("server: SIGTERM")

    async def test_without_a_server_nothing_is_hooked(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before_shutdown(never)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    async def test_in_another_thread_nothing_is_hooked(self) -> None:
        ends = Ends()

        async def hook_in_another_loop() -> None:
            before_shutdown(never)

        thread = threading.Thread(target=asyncio.run, args=[hook_in_another_loop()])
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) == ends.end

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    async def test_uvicorn_exits_with_0_at_sigterm(self) -> None:
        """Its own handler would raise the signal again at the end."""
        server = uvicorn.Server(uvicorn.Config(never))
        for signum in OF_SERVERS:
            signal.signal(signum, server.handle_exit)
        ends: list[str] = []

        async def hook() -> None:
            ends.append("hook")

        before_shutdown(hook)
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: server.should_exit)
        assert ends == ["hook"]
        assert server._captured_signals == []

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    async def test_uvicorn_is_interrupted_as_ever(self) -> None:
        server = uvicorn.Server(uvicorn.Config(never))
        for signum in OF_SERVERS:
            signal.signal(signum, server.handle_exit)

        async def hook() -> None:
            pass

        before_shutdown(hook)
        signal.raise_signal(signal.SIGINT)
        await until(lambda: server.should_exit)
        assert server._captured_signals == [signal.SIGINT]


class TestEndedLoop:
    def test_its_hook_is_passed_over(self) -> None:
        log: list[str] = []
        signal.signal(signal.SIGTERM, lambda signum, frame: log.append("server"))
        asyncio.run(hooked(log))
        signal.raise_signal(signal.SIGTERM)
        assert log == ["server"]

    def test_its_hook_is_not_kept(self) -> None:
        """As in a test suite, where each test has its loop."""
        signal.signal(signal.SIGTERM, log_nothing)
        log: list[str] = []
        for _ in range(3):
            asyncio.run(hooked([]))
        asyncio.run(hung_up(log))
        assert log == ["hook"]
        handler: Any = signal.getsignal(signal.SIGTERM)
        assert handler.server_handler is log_nothing


class TestReactor:
    @pytest.mark.processes
    def test_the_reactor_stops_once_the_hook_is_done(self) -> None:
        """In a process of its own: a reactor runs once."""
        done = subprocess.run(
            [sys.executable, "-c", REACTOR],
            cwd=Path(__file__).parent.parent.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.split() == ["hook", "begins", "hook", "ends", "stopped"], done.stderr
        assert done.returncode == 0


REACTOR = """
import asyncio, os, signal
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from dwsps_channels.server.shutdown import before_shutdown

async def hook():
    print("hook begins")
    await asyncio.sleep(0.01)
    print("hook ends")

async def start():
    before_shutdown(hook)
    os.kill(os.getpid(), signal.SIGTERM)

reactor.callWhenRunning(lambda: asyncio.ensure_future(start()))
reactor.run()
print("stopped")
"""


async def hooked(log: list[str]) -> None:
    async def hook() -> None:
        log.append("hook")

    before_shutdown(hook)


async def hung_up(log: list[str]) -> None:
    """The hangup is this loop's, not that of one before."""
    await hooked(log)
    signal.raise_signal(signal.SIGHUP)
    await until(lambda: bool(log))


async def never(*args: Any) -> None:
    pytest.fail("was called")


def log_nothing(signum: int, frame: FrameType | None) -> None: ...
