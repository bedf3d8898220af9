"""Publishing to the log from a process that does not serve."""

import secrets
from time import monotonic, sleep
from typing import Final
from uuid import uuid4

from dwsps_channels.broker.redis.blocking import BlockingConnection
from dwsps_channels.broker.redis.hosts import Host
from dwsps_channels.broker.redis.layout import VOTE_PAUSE, Call, Layout, numbers
from dwsps_channels.core.broker import SendResult
from dwsps_channels.core.publication import Publication

NOBODY: Final = "no process of the server was listening"

# Seconds without any process of the server after which that is said: a restart is shorter.
QUIET: Final = 60


class RedisSender:
    """Appends to the log of a ``RedisBroker``, and reads nothing. It blocks; for one caller at a time."""

    def __init__(self, host: Host, layout: Layout) -> None:
        self._layout = layout
        self._process = uuid4().hex
        self._number = 0
        self._connection = BlockingConnection(host)

    def publish(self, publication: Publication, deadline: float, key: str = "") -> SendResult:
        """Append ``publication``: see ``BrokerSender.publish``."""
        self._number += 1
        call = self._layout.append(
            self._process, self._number, secrets.randbits(63), "", [publication], [key]
        )
        self._connection.deadline = deadline
        # To send again is safe: Redis knows the number.
        return self._connection.once_more_if_kept(lambda: self._append(call))

    def _append(self, call: Call) -> SendResult:
        what, *outcome = self._connection.run(call)
        while what == b"lost":
            open_log(self._connection, self._layout)
            what, *outcome = self._connection.run(call)
        first, known, quiet = outcome
        lost = NOBODY if int(quiet) > QUIET * 1000 else ""
        return SendResult(numbers(known)[1] if known else int(first), lost)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def open_log(connection: BlockingConnection, layout: Layout) -> tuple[str, int, bytes]:
    """Return the epoch of the log, its last offset, and the id of the last entry. If the log does not exist, begin it.

    Raises:
        TimeoutError: not before the deadline of ``connection``.
        OSError: Redis cannot be reached or used.
    """
    run = connection.server().run
    candidate = uuid4().hex[:16]
    while True:
        what, epoch, offset, last = connection.run(layout.join("", run, candidate, "", b"0-0"))
        if what != b"wait":
            return epoch.decode(), int(offset), last
        if monotonic() > connection.deadline:
            raise TimeoutError
        sleep(VOTE_PAUSE)
