"""The measurements, kept as JSON, and their medians."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

from benchmarks.generator import Measurement
from benchmarks.loads import Load

FAULTS = ("lost", "doubled", "disordered", "damaged", "misdirected")
QUANTILES = ("p50", "p99", "p99.9")


@dataclass(frozen=True)
class Figure:
    """The medians of one contestant under one load."""

    value: float
    """In the load's unit."""
    spread: tuple[float, float]
    """The least and the greatest of the rounds."""
    delays: dict[str, float]
    """Quantile -> microseconds from publish to delivery; empty for loads that publish nothing."""
    faults: dict[str, int]
    """Faults of deliveries, over all rounds, by kind; kinds without a fault are left out."""
    deliveries: int
    """Number of deliveries that were checked, over all rounds, including those outside the measured time."""
    generator_busy: float
    """The greatest share of the time for which the generator had something to do."""
    server_busy: float
    """The median share of its core that the server used."""
    others_busy: float
    """The greatest share of a core that others used who have no part in this."""
    stalled: bool
    """True if deliveries stopped before the end."""
    unrecovered: int = 0
    """Number of clients that missed something, of a load in which they recover, over all rounds."""
    memory_rise: float | None = None
    """Median of the bytes that the server has more after a recovery than before clients were cut off."""
    server_each: float | None = None
    """Median of the server's processor time for a client that connects, in seconds; of a storm or a recovery."""


@dataclass
class Results:
    """All of a run. ``cells``: contestant -> load -> what each round gave; ``failures``: in place of that, why not."""

    quick: bool
    started: str
    rounds: int
    seconds: float
    machine: dict[str, str]
    versions: dict[str, str]
    loads: list[Load]
    left_out: dict[str, str] = field(default_factory=dict)
    cells: dict[str, dict[str, list[Measurement]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, contestant: str, load: Load, measurement: Measurement) -> None:
        self.cells.setdefault(contestant, {}).setdefault(load.name, []).append(measurement)

    def fail(self, contestant: str, load: Load, why: str) -> None:
        self.failures.setdefault(contestant, {})[load.name] = why

    def failure(self, contestant: str, load: Load) -> str | None:
        return self.failures.get(contestant, {}).get(load.name)

    def figure(self, contestant: str, load: Load) -> Figure | None:
        """``None``: it was not measured, or not in every round that was begun."""
        measurements = self.cells.get(contestant, {}).get(load.name)
        if not measurements or self.failure(contestant, load) is not None:
            return None
        return _figure(load, measurements)

    def ratio(self, ours: str, rival: str, load: Load) -> float | None:
        """Return the ratio of our median to the rival's, of the figure that the load measures."""
        one, other = self.figure(ours, load), self.figure(rival, load)
        if one is None or other is None or other.value <= 0:
            return None
        return one.value / other.value

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        content = json.loads(path.read_text())
        loads = [Load(**load) for load in content.pop("loads")]
        return cls(**content, loads=loads)


def _figure(load: Load, measurements: list[Measurement]) -> Figure:
    values = [_value(load, one) for one in measurements]
    checked = [one["checked"] for one in measurements if "checked" in one]
    delays = [one["delay_us"] for one in measurements if "delay_us" in one]
    busy = [one["busy"] for one in measurements if "busy" in one]
    rises = [one["memory_rise"] for one in measurements if "memory_rise" in one]
    faults = {name: sum(one[name] for one in checked) for name in FAULTS}
    return Figure(
        value=median(values),
        spread=(min(values), max(values)),
        delays={name: median(one[name] for one in delays) for name in QUANTILES} if delays else {},
        faults={name: count for name, count in faults.items() if count},
        deliveries=sum(one["delivered"] for one in checked),
        generator_busy=_greatest(one["generator"] for one in busy),
        server_busy=median([one["server"] for one in busy] or [0.0]),
        others_busy=_greatest(one["others"] for one in busy),
        stalled=any(one.get("stalled", False) for one in measurements),
        unrecovered=sum(
            one["connections"] - one["recovered"] for one in measurements if "recovered" in one
        ),
        memory_rise=median(rises) if rises else None,
        server_each=(
            median(one["busy"]["server"] / one["rate"] for one in measurements)
            if load.kind in ("storm", "recovery")
            else None
        ),
    )


def _value(load: Load, measurement: Measurement) -> float:
    value: float
    match load.kind:
        case "idle":
            value = measurement["bytes_each"] / 1024
        case "across-delay":
            value = measurement["delay_us"]["p50"] / 1000
        case "acknowledged":
            value = measurement["ack_rate"]
        case _:
            value = measurement["rate"]
    return value


def _greatest(shares: Iterable[float]) -> float:
    return max(shares, default=0.0)
