"""``manage.py runpubsub``: the worker."""

import asyncio
import logging
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dwsps_channels.client.address import Address
from dwsps_channels.conf import conf
from dwsps_channels.worker import Worker

logger = logging.getLogger("dwsps_channels")


class Command(BaseCommand):
    help = (
        "Forward what is published on this server to its peers, until told to end. Run it beside the server; "
        "peers are managed in the admin, or with 'manage.py peers'. Several may run: one forwards, the others "
        "stand by and take over when it dies."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--server-url",
            metavar="URL",
            help="where the server's websocket is (default: DWSPS['SERVER_URL'])",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        url = options["server_url"] or conf.SERVER_URL
        try:
            Address.parse(url)
        except ValueError as error:
            raise CommandError(f"--server-url: {error}") from error
        _show_log(options["verbosity"])
        asyncio.run(_work(url))


async def _work(url: str) -> None:
    worker = Worker(url)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    await worker.run()


def _show_log(verbosity: int) -> None:
    """Have a person see what the worker does, where the project's logging shows nothing of it."""
    if verbosity > 0 and not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
