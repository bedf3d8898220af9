"""Keeping the log within its bounds, with a clock of the test's own."""

from collections.abc import Callable

import pytest

from dwsps_channels.broker.database import trimming
from dwsps_channels.broker.database.roots import REST, Roots
from dwsps_channels.broker.database.table import LogTable
from dwsps_channels.broker.database.trimming import SLACK, Trimmer
from dwsps_channels.core.retention import Retention
from dwsps_channels.models import LogEntry, LogState

pytestmark = pytest.mark.processes

SetClock = Callable[[float], None]
BOUNDS = Retention(messages=100, bytes=10**6, seconds=32.0)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets the time by which publications are old."""
    return lambda now: monkeypatch.setattr(trimming, "time", lambda: now)


@pytest.fixture
def trimmer(sqlite_using: str, set_clock: SetClock) -> Trimmer:
    """Of a log with a publication a second, from 1000 to 1009."""
    LogState.objects.using(sqlite_using).create(pk=1, epoch="e", offset=10, holder="us")
    rows = [
        LogEntry(offset=number + 1, at=1000.0 + number, size=1, data=b"") for number in range(10)
    ]
    LogEntry.objects.using(sqlite_using).bulk_create(rows)
    set_clock(1010.0)
    trimmer = Trimmer(LogTable(sqlite_using, Roots(BOUNDS, BOUNDS)), "us")
    trimmer.begin()
    assert not trimmer.step(REST)  # finds out how old the oldest is
    return trimmer


def test_what_is_hardly_too_old_waits_until_nothing_else_is_to_be_done(
    trimmer: Trimmer, set_clock: SetClock, sqlite_using: str
) -> None:
    set_clock(1032.5)
    assert list(trimmer.over(SLACK)) == []
    assert list(trimmer.over()) == [REST]
    set_clock(1033.5)
    assert list(trimmer.over(SLACK)) == [REST]
    trimmer.step(REST)
    assert LogEntry.objects.using(sqlite_using).count() == 8
    assert list(trimmer.over()) == []


def test_what_a_root_keeps_for_clients_does_not_bound_what_peers_get(
    sqlite_using: str, set_clock: SetClock
) -> None:
    few = Retention(messages=3, bytes=1000, seconds=5.0)
    many = Retention(messages=200, bytes=10**7, seconds=64.0)
    LogState.objects.using(sqlite_using).create(pk=1, epoch="e", offset=10, holder="us")
    rows = [
        LogEntry(offset=10 * place + number + 1, at=1000.0 + number, root=root, size=1, data=b"")
        for place, root in enumerate((REST, "few", "many"))
        for number in range(10)
    ]
    LogEntry.objects.using(sqlite_using).bulk_create(rows)
    roots = Roots(BOUNDS, BOUNDS, {"few": few, "many": many})
    trimmer = Trimmer(LogTable(sqlite_using, roots), "us")
    set_clock(1010.0)
    trimmer.begin()
    # Finds out how old the oldest are.
    assert not any(trimmer.step(root) for root in roots.log)
    assert list(trimmer.over()) == []
    set_clock(1033.0)
    assert list(trimmer.over()) == [REST, "few"]
    set_clock(1065.0)
    assert list(trimmer.over()) == [REST, "few", "many"]


def test_what_another_process_has_removed_is_not_counted(
    trimmer: Trimmer, set_clock: SetClock, sqlite_using: str
) -> None:
    LogEntry.objects.using(sqlite_using).all().delete()
    trimmer.begin()
    set_clock(2000.0)
    assert list(trimmer.over()) == []
