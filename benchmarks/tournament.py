"""Everyone under every load, in turns."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from benchmarks import generator, machine
from benchmarks.contestants import Contestant, prepare, started
from benchmarks.loads import Load
from benchmarks.processes import Cores, Failure, most_files, on_core
from benchmarks.results import Results


@dataclass(frozen=True)
class Pace:
    """The time that is left."""

    rounds: int
    warm_up: float
    seconds: float
    timeout: int
    """Seconds for one measurement, with the opening of its connections; a recovery opens them twice and has three times as
    many."""


FULL = Pace(rounds=3, warm_up=0.2, seconds=1.0, timeout=45)
QUICK = Pace(rounds=1, warm_up=0.1, seconds=0.3, timeout=10)


def run(
    contestants: Sequence[Contestant],
    loads: Sequence[Load],
    pace: Pace,
    *,
    quick: bool,
    say: Callable[[str], None],
) -> Results:
    """Measure, in rounds: in each, every contestant is started, put under all loads, and stopped."""
    cores = Cores.choose()
    generator.build()
    if any(contestant.yardstick for contestant in contestants):
        generator.build_ceiling()
    results = Results(
        quick=quick,
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rounds=pace.rounds,
        seconds=pace.seconds,
        machine=machine.describe(cores),
        versions=machine.versions(),
        loads=list(loads),
    )
    taking_part = []
    for contestant in contestants:
        if why := contestant.missing():
            results.left_out[contestant.name] = why
            say(f"{contestant.title} is left out: {why}")
        else:
            taking_part.append(contestant)
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as folder,
        on_core(cores.generator),
        most_files() as most_connections,
    ):
        prepare(Path(folder))
        for load in loads:
            if load.options.get("connections", 0) > most_connections:
                for contestant in taking_part:
                    results.fail(
                        contestant.name, load, "too few open files are allowed (ulimit -n)"
                    )
        for number in range(1, pace.rounds + 1):
            for contestant in taking_part:
                began = time.monotonic()
                some = [load for load in loads if number == 1 or not load.once]
                _turn(contestant, some, pace, cores, Path(folder), results)
                took = time.monotonic() - began
                say(f"round {number} of {pace.rounds}: {contestant.title}, {took:.0f} s")
    for contestant in taking_part:
        for load in loads:
            if why := results.failure(contestant.name, load):
                say(f"{contestant.title}, {load.title}: {why}")
    return results


def _turn(
    contestant: Contestant,
    loads: Sequence[Load],
    pace: Pace,
    cores: Cores,
    folder: Path,
    results: Results,
) -> None:
    # What did not work once is not tried again.
    left = [
        load
        for load in loads
        if contestant.takes(load) and results.failure(contestant.name, load) is None
    ]
    for some in _for_one_start(left):
        while some:
            # A server that has failed under a load may not be what it was: the next load gets a new one.
            some = some[_measure(contestant, some, pace, cores, folder, results) :]


def _for_one_start(loads: Sequence[Load]) -> Iterator[list[Load]]:
    """Idle connections come to a fresh server, and so do the other loads after them, and a recovery."""
    for _, some in groupby(loads, key=lambda load: load.kind if load.is_first else None):
        yield list(some)


def _measure(
    contestant: Contestant,
    loads: Sequence[Load],
    pace: Pace,
    cores: Cores,
    folder: Path,
    results: Results,
) -> int:
    """Start the contestant and measure until all is measured or something fails; how many loads that were."""
    done = 0
    try:
        with started(contestant, cores, folder) as running:
            for done, load in enumerate(loads, start=1):
                try:
                    measurement = generator.measure(
                        load,
                        running.target,
                        core=running.core,
                        warm_up=pace.warm_up,
                        seconds=pace.seconds,
                        timeout=pace.timeout * (3 if load.kind == "recovery" else 1),
                        memory=running.server.resident_bytes,
                    )
                except Failure as failure:
                    results.fail(contestant.name, load, str(failure))
                    return done
                results.add(contestant.name, load, measurement)
    except Failure as failure:
        for load in loads:
            results.fail(contestant.name, load, str(failure))
        return len(loads)
    return done
