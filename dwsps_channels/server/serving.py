"""The whole project in one process: what ``manage.py runpubsub --serve`` runs.

HTTP and websockets by uvicorn, the websockets on the fast lane if its packages are installed, and the worker
beside them in the same event loop.
"""

import asyncio
import errno
import importlib.util
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvicorn
from channels.routing import get_default_application
from django.apps import apps
from django.conf import settings

from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.conf import conf
from dwsps_channels.connections.servers.options import message_bytes
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.core.node import Node
from dwsps_channels.peering.worker import LeasedTask, Worker
from dwsps_channels.server import runtime
from dwsps_channels.server.node_source import NodeSource
from dwsps_channels.server.shutdown import end_signals

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# What an HTTP request that is under way has to end, once the server is told to.
REQUEST_GRACE = 5

FAST_PACKAGES = ("uvloop", "httptools")


class Endpoint(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Parse ``HOST:PORT``, ``PORT`` or ``[IPV6]:PORT``.

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

    def listen(self) -> list[socket.socket]:
        """Bind a socket to each address that the host has. They do not listen yet.

        Raises:
            OSError: another process listens there, or this machine has no such address.
        """
        found: list[socket.socket] = []
        missing: OSError | None = None
        for family, kind, protocol, _, address in dict.fromkeys(
            socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        ):
            bound = None
            try:
                bound = socket.socket(family, kind, protocol)
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # Or it would take IPv4's part, too, and the next address could not be bound.
                    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                bound.bind(address)
            except OSError as error:
                if bound is not None:
                    bound.close()
                # "localhost" has an IPv6 address also where there is no IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    for each in found:
                        each.close()
                    raise
                missing = error
            else:
                found.append(bound)
        if missing is not None and not found:
            raise missing
        return found


def missing_for_speed() -> list[str]:
    """Return the packages of the fast lane that are not installed."""
    return [name for name in FAST_PACKAGES if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def serve(listening: list[socket.socket], task: LeasedTask | None = None) -> None:
    """Serve on ``listening``, which ``Endpoint.listen`` gave, forward, and do the worker's ``task``, until told to end.

    Raises:
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
            application(),
            # Where the fast lane does not read a message itself, uvicorn holds it whole before its size is looked at.
            ws_max_size=message_bytes(conf.limits),
            log_config=None,  # Django's is in force
            access_log=False,
            lifespan="off",
            workers=1,  # whatever WEB_CONCURRENCY says
            timeout_graceful_shutdown=REQUEST_GRACE,
            **options,
        )
    )
    with asyncio.Runner(loop_factory=new_loop) as runner:
        worker = Worker(_make_source, task, reads_from="this process")
        runner.run(_serve(server, listening, worker))


def _make_source() -> LogSource:
    return NodeSource(_node, configured_backend().make_source())


async def _node() -> Node:
    """Return the node of the server in this process, which starts if it has not."""
    return (await runtime.obtain()).node


def application() -> Any:
    """Return what ``ASGI_APPLICATION`` names; under ``DEBUG`` with the static files of the apps, as ``runserver`` does."""
    named: Any = get_default_application()
    if not (settings.DEBUG and apps.is_installed("django.contrib.staticfiles")):
        return named
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

    # Said of each file, which a thread reads a block at a time: nothing to mend.
    warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous")
    return ASGIStaticFilesHandler(named)


async def _serve(server: "_Server", listening: list[socket.socket], worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    for number in end_signals():
        loop.add_signal_handler(number, server.stop)
    serving = asyncio.create_task(server.serve(listening))
    working = asyncio.create_task(worker.run())
    try:
        # Neither is of use without the other.
        await asyncio.wait([serving, working], return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.stop()
        # The worker comes after the server, to read what was published to the last.
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
