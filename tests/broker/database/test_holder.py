"""The names of processes that hold the lease of the log."""

import os
import subprocess
import sys

import pytest

from dwsps_channels.broker.database import holder
from dwsps_channels.broker.database.holder import has_ended, new_holder

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="it is known by /proc alone"
)


def of(pid: int, started: str | None = None, place: str | None = None) -> str:
    """The name of a holder with this process id."""
    place = holder._place() if place is None else place
    return f"{place}:{pid}:{holder._started(pid) if started is None else started}:0123abcd"


def test_each_name_is_another_and_fits_its_column() -> None:
    names = {new_holder() for _ in range(100)}
    assert len(names) == 100
    # The largest process id, and a machine that has run for a century.
    longest = len(of(4_194_304, str(100 * 365 * 86400 * 100)))
    assert max(longest, *map(len, names)) <= 64


def test_a_process_that_runs_has_not_ended() -> None:
    assert not has_ended(new_holder())


@pytest.mark.processes
def test_a_process_that_was_killed_has_ended_also_before_it_is_waited_for() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = of(child.pid)
    assert not has_ended(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(name)
    child.communicate()
    assert has_ended(name)


def test_another_process_that_got_the_id_is_not_taken_for_it() -> None:
    assert has_ended(of(os.getpid(), started="1"))


@pytest.mark.parametrize(
    "name", ["", "worker", "::", "a:b:c", of(1, place="another"), of(1, "1", "")]
)
def test_what_cannot_be_known_has_not_ended(name: str) -> None:
    assert not has_ended(name)


def test_nothing_is_known_if_processes_of_other_users_are_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = of(4_194_304, started="1")
    assert has_ended(name)
    monkeypatch.setattr(holder, "_started", lambda pid: "")
    assert not has_ended(name)
