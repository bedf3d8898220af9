"""Notices that the server did not take, sent again until it does: a change of access must not be forgotten."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from dwsps_channels.core.notice import EVERYTHING, Notice
from dwsps_channels.exceptions import NotServing
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.publisher import Notifier

logger = logging.getLogger("dwsps_channels.access")

# Seconds between two attempts.
RETRY_PAUSE: Final = 1.0

# More than that are replaced by one that stands for everything.
MAX_UNSENT: Final = 1000


def _sleep(seconds: float) -> None:
    # Nobody sets it: to wait for it is a sleep that gevent and eventlet know.
    threading.Event().wait(seconds)


class Resender:
    """Sends notices again in a thread, which ends when all are sent. They are lost with the process."""

    def __init__(
        self, choose: Callable[[], Notifier], sleep: Callable[[float], object] = _sleep
    ) -> None:
        """``choose`` returns the way to the server as it is then."""
        self._choose = choose
        self._sleep = sleep
        self._lock = threading.Lock()
        # A dict, as it is in order and has each once.
        self._unsent: dict[Notice, None] = {}
        self._thread: threading.Thread | None = None

    def add(self, notice: Notice) -> None:
        """Send ``notice`` later."""
        with self._lock:
            if len(self._unsent) >= MAX_UNSENT:
                self._unsent = {EVERYTHING: None}
            self._unsent[notice] = None
            if self._thread is None:
                # A daemon: a process that ends does not wait for a server that is away.
                self._thread = threading.Thread(target=self._run, name="dwsps-notices", daemon=True)
                self._thread.start()

    def forget(self) -> None:
        """Begin again: in a forked process, whose parent sends its own."""
        self.__init__(self._choose, self._sleep)  # type: ignore[misc]

    def _run(self) -> None:
        while True:
            self._sleep(RETRY_PAUSE)
            with self._lock:
                waiting = list(self._unsent)
            for notice in waiting:
                # Before it is sent: an equal one that comes meanwhile is about a later change.
                with self._lock:
                    self._unsent.pop(notice, None)
                try:
                    # It has taken effect in this process: else every attempt would close connections that are newer.
                    self._choose().notify(notice, again=True)
                except (NotServing, Unavailable):
                    with self._lock:
                        self._unsent = {notice: None} | self._unsent
                    break
                except Exception:
                    # It would fail each time, and the others would wait for it.
                    logger.exception("a change of access is not sent again")
            with self._lock:
                if not self._unsent:
                    self._thread = None
                    return
