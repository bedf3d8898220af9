"""``history`` and ``ahistory``, from any Django code; and the log's cursor, for pages."""

import logging
from typing import Final

from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.capturing import capture
from dwsps_channels.conf import conf
from dwsps_channels.exceptions import NotServing
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.errors import InvalidTopic, Unavailable
from dwsps_channels.protocol.messages import MAX_CURSOR
from dwsps_channels.protocol.topics import check
from dwsps_channels.reading.captured import CapturedLog
from dwsps_channels.reading.local import LocalLog
from dwsps_channels.reading.log import ReadableLog
from dwsps_channels.reading.messages import History, HistoryQuery
from dwsps_channels.reading.remote import remote_log
from dwsps_channels.server import runtime

logger = logging.getLogger("dwsps_channels.reading")

# Seconds that a page may wait for the cursor; without it a page is served all the same.
CURSOR_TIMEOUT: Final = 0.5


def history(topic: str, *, last: int | None = None, since: str | None = None) -> History:
    """Read what was published at and below ``topic``, from synchronous code. The policy is not asked.

    Args:
        topic: levels joined by dots, such as ``news.uk``.
        last: the number of messages, the newest. Without ``last`` and ``since``: all that a client would be sent again,
            at most ``DWSPS["RESUME_MESSAGES"]`` and ``DWSPS["RESUME_BYTES"]``, which are limits in any case.
        since: a cursor; then what was published after it. If that is not all kept, the result says so.

    Returns:
        The messages, the oldest first, and the cursor from which a page that shows them subscribes.

    Raises:
        InvalidTopic: the topic breaks the grammar. It is a ``ValueError``.
        ValueError: ``last`` is below 0, or both ``last`` and ``since`` are given.
        NoLog: the server's broker keeps no log.
        NotServing: the process serves no websockets, and cannot reach one that does.
        Unavailable: the log was not read within ``DWSPS["PUBLISH_TIMEOUT"]`` seconds.
    """
    query = _query(topic, last, since)
    return _log().read(query, conf.PUBLISH_TIMEOUT)


async def ahistory(topic: str, *, last: int | None = None, since: str | None = None) -> History:
    """Read what was published at and below ``topic``, from asynchronous code. See ``history``."""
    query = _query(topic, last, since)
    return await _log().aread(query, conf.PUBLISH_TIMEOUT)


def cursor() -> str:
    """Return the end of the log, from synchronous code; empty if it cannot be known soon, or there is no log."""
    try:
        return _log().cursor(_cursor_timeout())
    except (NotServing, Unavailable) as error:
        return _without(error)


async def acursor() -> str:
    """Return the same, from asynchronous code."""
    try:
        return await _log().acursor(_cursor_timeout())
    except (NotServing, Unavailable) as error:
        return _without(error)


_throttle = LogThrottle()


def _without(error: Exception) -> str:
    """Return the empty cursor, and log why, but not for each page."""
    if _throttle.is_due():
        logger.warning("a page has no cursor: %s", error)
    return ""


def _cursor_timeout() -> float:
    return min(CURSOR_TIMEOUT, conf.PUBLISH_TIMEOUT)


def _log() -> ReadableLog:
    server = runtime.current()
    captured = capture(serving=server is not None)
    if captured is not None:
        return CapturedLog(captured)
    if server is not None:
        return LocalLog(server)
    return remote_log(configured_backend(), conf.SERVER_URL)


def _query(topic: str, last: int | None, since: str | None) -> HistoryQuery:
    if not isinstance(topic, str):
        raise InvalidTopic(repr(topic), "is not a string")
    check(topic)
    if last is not None and since is not None:
        raise ValueError("give either 'last' or 'since'")
    if last is not None and last < 0:
        raise ValueError("'last' must be 0 or above")
    if since is not None and len(since) > MAX_CURSOR:
        since = ""
    return HistoryQuery(topic, last, since)
