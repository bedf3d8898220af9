"""``manage.py runpubsub``: the worker."""

import asyncio
import logging
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.client.address import Address
from dwsps_channels.conf import conf
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.durable.sweeper import Sweeper
from dwsps_channels.peering.worker import Worker
from dwsps_channels.publishing.choice import remote_publisher_at, serving_publisher
from dwsps_channels.server.shutdown import end_signals

logger = logging.getLogger("dwsps_channels")


class Command(BaseCommand):
    help = (
        "Forward the messages that are published on this server to its peers, and publish durable messages that were "
        "left behind. Run it beside the server, and stop it with SIGTERM or Ctrl+C. Manage peers in the admin, or with 'manage.py peers'. If several run, one forwards; "
        "the others stand by and take over if it dies."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--serve",
            metavar="HOST:PORT",
            nargs="?",
            const="127.0.0.1:8000",
            help="also serve the whole project over HTTP and websocket, in the same process "
            "(default: 127.0.0.1:8000)",
        )
        parser.add_argument(
            "--server-url",
            metavar="URL",
            help="the URL of the server's websocket (default: DWSPS['SERVER_URL']), over which its log is read if that "
            "is in the server's memory only",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        _show_log(options["verbosity"])
        if options["serve"] is not None:
            if options["server_url"]:
                raise CommandError(
                    "--serve and --server-url exclude each other: --serve forwards from the server that it starts"
                )
            self._serve(options["serve"])
            return
        url = options["server_url"] or conf.SERVER_URL
        try:
            Address.parse(url)
        except ValueError as error:
            source = "--server-url" if options["server_url"] else "DWSPS['SERVER_URL']"
            raise CommandError(f"{source}: {error}") from error
        asyncio.run(self._work(url, is_given=bool(options["server_url"])))

    async def _work(self, url: str, *, is_given: bool) -> None:
        backend = configured_backend()

        def make_source() -> LogSource:
            source = backend.make_source()
            assert source is not None
            return source

        sweeper = Sweeper(partial(remote_publisher_at, url))
        if (source := backend.make_source()) is None:
            await _run(Worker(url, sweeper))
            return
        await source.close()  # the worker makes one whenever it begins to forward
        broker = type(backend).__name__
        if is_given:
            self.stderr.write(f"--server-url is not used: the log is read from {broker}")
        await _run(Worker(make_source, sweeper, reads_from=broker))

    def _serve(self, where: str) -> None:
        try:
            from dwsps_channels.server import serving
        except ModuleNotFoundError as error:
            if error.name != "uvicorn":
                raise
            raise CommandError(
                "--serve needs uvicorn: pip install uvicorn uvloop httptools"
            ) from error
        try:
            endpoint = serving.Endpoint.parse(where)
        except ValueError as error:
            raise CommandError(f"--serve: {error}") from error
        if missing := serving.missing_for_speed():
            self.stderr.write(
                f"without {', '.join(missing)}, uvicorn's own websockets are used, which are slower: "
                f"pip install {' '.join(missing)}"
            )
        try:
            listening = endpoint.listen()
        except OSError as error:
            raise CommandError(f"--serve: cannot listen on {where}: {error.strerror}") from error
        serving.serve(listening, Sweeper(serving_publisher))


async def _run(worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    for number in end_signals():
        loop.add_signal_handler(number, worker.stop)
    await worker.run()


def _show_log(verbosity: int) -> None:
    """Show the worker's log on the terminal if the project's logging does not."""
    if verbosity > 0 and not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
