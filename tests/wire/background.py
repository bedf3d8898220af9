"""The demo project with a thread that publishes numbers until it is refused, and writes down the acknowledged ones."""

import os
import threading
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from dwsps_channels import publish, signals
from dwsps_channels.exceptions import Unavailable
from tests.wire.lenient import application

__all__ = ["application"]


def run() -> None:
    number = 0
    with Path(os.environ["ACKNOWLEDGED"]).open("w") as acknowledged:
        while True:
            try:
                publish("numbers", number)
            except Unavailable:
                print("refused", file=acknowledged)
                return
            print(number, file=acknowledged, flush=True)
            number += 1


def begin(**kwargs: Any) -> None:
    signals.connected.disconnect(begin)
    threading.Thread(target=run).start()


signals.connected.connect(begin)
