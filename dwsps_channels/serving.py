"""The whole project in one process: what ``manage.py runpubsub --serve`` runs.

HTTP and websockets by uvicorn, the websockets on the fast lane where its packages are installed, and the worker
beside them in the same event loop.
"""

import asyncio
import importlib.util
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import uvicorn
from channels.routing import get_default_application

from dwsps_channels import runtime
from dwsps_channels.conf import conf
from dwsps_channels.worker import Worker

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# What an HTTP request that is under way has to end, once the server is told to.
REQUEST_SECONDS = 5

FAST_PACKAGES = ("uvloop", "httptools")


class Endpoint(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Of ``HOST:PORT``, ``PORT`` or ``[IPV6]:PORT``.

        Raises:
            ValueError: it is none of them.
        """
        parts = urlsplit(f"//{text}" if ":" in text else f"//127.0.0.1:{text}")
        try:
            port = parts.port
        except ValueError:
            port = None
        if not parts.hostname or port is None or parts.path or parts.username:
            raise ValueError(f"'{text}' is not HOST:PORT")
        return cls(parts.hostname, port)

    @property
    def url(self) -> str:
        """The websocket's, for a worker on this machine. The path is that of ``DWSPS["SERVER_URL"]``."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        shown = f"[{host}]" if ":" in host else host
        path = urlsplit(conf.SERVER_URL).path or "/"
        return urlunsplit(("ws", f"{shown}:{self.port}", path, "", ""))


def missing_for_speed() -> list[str]:
    """The packages of the fast lane that are not installed."""
    return [name for name in FAST_PACKAGES if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def serve(endpoint: Endpoint) -> None:
    """Serve and forward until told to end.

    Raises:
        OSError: nobody can listen there.
        SystemExit: uvicorn could not start; its log says why.
    """
    options: dict[str, Any] = {}
    new_loop: LoopFactory | None = None
    if not missing_for_speed():
        from dwsps_channels import fastlane

        options["ws"] = fastlane.Protocol
        options["http"] = fastlane.HttpProtocol
        new_loop = fastlane.new_loop
    server = _Server(
        uvicorn.Config(
            get_default_application(),
            host=endpoint.host,
            port=endpoint.port,
            log_config=None,  # Django's is in force
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=REQUEST_SECONDS,
            **options,
        )
    )
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(server, Worker(endpoint.url)))


async def _serve(server: "_Server", worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    serving = asyncio.create_task(server.serve())
    working = asyncio.create_task(worker.run())
    try:
        # Neither is of use without the other.
        await asyncio.wait([serving, working], return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.stop()
        # What was published to the last has come to the worker before its connection ends.
        await asyncio.wait([serving])
        worker.stop()
        await asyncio.wait([working])
    serving.result()
    working.result()


class _Server(uvicorn.Server):
    """Ends when ``stop`` is called. Signals are for the process as a whole, not for the server alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Send the clients away, then end; a second call does not wait for them."""
        if self._stopping is not None:
            self.force_exit = True
            return
        self._stopping = asyncio.create_task(self._stop())

    _stopping: asyncio.Task[None] | None = None

    async def _stop(self) -> None:
        server = runtime.current()
        if server is not None:
            await server.drain()
        self.should_exit = True
