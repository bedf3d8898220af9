"""The results for readers: ``docs/explanation/performance.md`` and its chart."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.chart import Bar, Panel, draw
from benchmarks.contestants import CONTESTANTS, Contestant
from benchmarks.goals import GOALS, Goal
from benchmarks.loads import Load
from benchmarks.results import QUANTILES, Figure, Results

IN_CHART = ("fan-100-8", "fan-1000-8", "pairs-50")

# Above this share of a core, others have had a part in the figures.
NOISE = 0.05
# From this share on, a server has had all of its core: its use is counted in hundredths of a second.
FULL = 0.95

TITLES = {contestant.name: contestant.title for contestant in CONTESTANTS}
YARDSTICK = next(contestant for contestant in CONTESTANTS if contestant.yardstick)

INTRODUCTION = """\
# Performance

<!-- Written by `make bench`: change benchmarks/report.py or benchmarks/remarks.md instead. -->

The speed of the server compared with others, on one core, and how to measure it yourself.

![Deliveries a second: the server and others](images/performance.svg)
"""

# It varies far less than the rate on a machine that others use.
SERVER_EACH = "processor time of the server, µs a client"

MOST = """\
**The most possible** is the yardstick's ratio to the same rival. A goal above it is in bold: no server that makes one system call for
each connection can reach it on this machine.
"""

METHOD = """\
## How it is measured

`make bench` measures everything in 20 minutes. `make bench QUICK=1` takes 2 minutes and only shows that it works. Compare ratios of
one run; figures of two machines or two days are not comparable.

* The server has one core, the load generator the other. The generator is a C program: one process, one thread. All connections use
  the loopback, without TLS and without compression.
* In a round, each contestant is started, put under each load, and stopped, one after the other. The figures are medians of the
  rounds. Idle connections are those of the first round: they connect to a server that has just started, and their memory is the same
  each time.
* **In flight** is a publish that some subscriber has not received yet. The publisher keeps the stated number in flight: it reads
  everything that has arrived, then publishes again, in one write. If publishes are **written one by one**, each is written as soon as
  the one before has arrived everywhere. Then microseconds decide how many publishes a server finds when it reads, and whether it can
  write eight deliveries at once.
* A pair is a publisher and a subscriber on their own topic, with one publish in flight.
* **Every delivery is checked.** A payload has 32 bytes unless stated otherwise. It contains the publisher's number and a sequence
  number. Each subscriber must receive each number once, in order, and every byte as published.
* **The delay** runs from before the publish is written to after the delivery is read.
* **Idle connections** have completed their protocol's handshake and subscribe to nothing. The memory of one is the difference in the
  server's resident memory, without the first 200.
* **The storm**: all clients are cut off at once and reconnect, 48 handshakes at a time, each with its subscriptions. It ends when the
  last subscription is acknowledged.
* **Recovery**: the clients of the storm are cut off, 100 messages are published below one topic of each, and all clients resume as
  they reconnect. It ends when the last resume is acknowledged. Every missed message is checked. The memory is the server's resident
  memory with all clients connected, after less before.
* **Acknowledged messages**: each publisher has a topic and a subscriber of its own. Acks are counted. The broker is another each time;
  PostgreSQL and SQLite run with the settings that the project and the broker give them, and PostgreSQL has each commit on the disk before
  it answers.
* **Two processes** share both cores with Redis and the generator. A message is published at one and delivered at the other. In flight
  is what was published and has not been delivered there.
* Our contestants are the demo project as `make run` serves it, without `DEBUG` and, unless stated otherwise, on the `memory` broker:
  sessions and users, policy, limits and signals are on.
  Rivals check nothing and have no middleware. They need not acknowledge a publish, except Node's `ws`, which does as dwsps does, and
  fastapi-websocket-pubsub, whose protocol has acks.
* If a rival has no levels, its server also publishes to each topic above.
"""


class Measured(NamedTuple):
    """The results of one contestant under one load."""

    contestant: Contestant
    load: Load
    figure: Figure


def text(results: Results, remarks: str = "") -> str:
    """Write the document."""
    parts = [
        INTRODUCTION,
        _rates(results),
        _delays(results),
        _connections(results),
        _recovery(results),
        _acknowledged(results),
        _across(results),
        _ratios(results),
        _goals(results),
        _checks(results),
        remarks,
        METHOD,
        _who(results),
        _where(results),
    ]
    return "\n".join(part for part in parts if part)


def chart(results: Results) -> str:
    """Return the chart, as SVG."""
    contestants = _taking_part(results)
    panels = []
    for load in results.loads:
        if load.name in IN_CHART:
            bars = [_bar(results.figure(contestant.name, load)) for contestant in contestants]
            panels.append(Panel(load.title, bars))
    return draw(
        "Deliveries a second, on one core",
        [contestant.title for contestant in contestants],
        [contestant.ours for contestant in contestants],
        panels,
    )


def _bar(figure: Figure | None) -> Bar:
    return Bar(None, "—") if figure is None else Bar(figure.value, _count(figure.value))


# Tables


def _rates(results: Results) -> str:
    loads = [load for load in results.loads if load.kind == "publish"]
    if not loads:
        return ""
    rows = [
        [_name(contestant), *(_cell(results.figure(contestant.name, load)) for load in loads)]
        for contestant in _taking_part(results)
    ]
    if YARDSTICK.name in results.cells:
        cells = [_cell(results.figure(YARDSTICK.name, load)) for load in loads]
        rows.append([f"*{word}*" for word in (f"yardstick, no rival: {YARDSTICK.title}", *cells)])
    return _section("Deliveries a second", _table(["", *(load.title for load in loads)], rows))


def _delays(results: Results) -> str:
    loads = [load for load in results.loads if load.kind == "publish"]
    if not loads:
        return ""
    rows = []
    for contestant in _taking_part(results):
        figures = [results.figure(contestant.name, load) for load in loads]
        rows.append([_name(contestant), *map(_delay_cell, figures)])
    explanation = f"In milliseconds: {', '.join(QUANTILES)}.\n\n"
    table = _table(["", *(load.title for load in loads)], rows)
    return _section("Delays", explanation + table)


def _connections(results: Results) -> str:
    loads = [load for load in results.loads if load.kind in ("idle", "storm")]
    if not loads:
        return ""
    heads = []
    for load in loads:
        heads.append(f"{load.title}, {load.unit}")
        if load.kind == "storm":
            heads.append(SERVER_EACH)
    rows = []
    for contestant in _taking_part(results):
        cells = []
        for load in loads:
            figure = results.figure(contestant.name, load)
            cells.append(_cell(figure))
            if load.kind == "storm":
                cells.append(_server_each(figure))
        rows.append([_name(contestant), *cells])
    return _section("Connections", _table(["", *heads], rows))


def _recovery(results: Results) -> str:
    loads = [load for load in results.loads if load.kind == "recovery"]
    rows = [
        [
            _name(contestant),
            load.title,
            _cell(figure),
            _server_each(figure),
            "all" if not figure.unrecovered else f"all but {figure.unrecovered}",
            "—" if figure.memory_rise is None else f"{figure.memory_rise / 2**20:.1f}",
        ]
        for contestant in CONTESTANTS
        for load in loads
        if (figure := results.figure(contestant.name, load)) is not None
    ]
    if not rows:
        return ""
    heads = [
        "",
        "load",
        "recoveries/s",
        SERVER_EACH,
        "recovered",
        "memory of the server, MiB more than before",
    ]
    return _section("Recovery", _table(heads, rows))


def _acknowledged(results: Results) -> str:
    loads = [load for load in results.loads if load.kind == "acknowledged"]
    rows = []
    for contestant in CONTESTANTS:
        figures = [results.figure(contestant.name, load) for load in loads]
        if any(figures):
            cells = [cell for one in figures for cell in (_cell(one), _delay_cell(one))]
            rows.append([_name(contestant), *cells])
    if not rows:
        return ""
    heads = [head for load in loads for head in (f"{load.title}, {load.unit}", "delays, ms")]
    explanation = f"By broker. Delays are {', '.join(QUANTILES)}, from publish to delivery, which is just before the ack.\n\n"
    return _section("Acknowledged messages a second", explanation + _table(["", *heads], rows))


def _across(results: Results) -> str:
    loads = [load for load in results.loads if load.is_across]
    several = [
        contestant
        for contestant in CONTESTANTS
        if contestant.processes > 1 and contestant.name in results.cells
    ]
    if not loads or not several:
        return ""
    first = several[0]
    rows = []
    for contestant in several:
        cells = []
        for load in loads:
            figure = results.figure(contestant.name, load)
            cells.append(_delay_cell(figure) if load.least_is_best else _cell(figure))
            if contestant is not first:
                ratio = results.ratio(first.name, contestant.name, load)
                cells[-1] += "" if ratio is None else f" ({_ratio(ratio)})"
        rows.append([_name(contestant), *cells])
    heads = [f"{load.title}, {'ms' if load.least_is_best else load.unit}" for load in loads]
    explanation = (
        f"Published at one process, delivered at the other. Delays are {', '.join(QUANTILES)}. In brackets: "
        f"{first.title}, as a multiple.\n\n"
    )
    return _section("Two processes", explanation + _table(["", *heads], rows))


def _ratios(results: Results) -> str:
    contestants = _taking_part(results)
    rivals = [contestant for contestant in contestants if not contestant.ours]
    parts = []
    for ours in contestants:
        if not ours.ours or not rivals:
            continue
        rows = []
        for load in _within(results):
            ratios = [results.ratio(ours.name, rival.name, load) for rival in rivals]
            if not any(ratios):
                continue  # none of them takes part in it
            label = f"{load.title} (memory)" if load.least_is_best else load.title
            rows.append([label, *("—" if one is None else _ratio(one) for one in ratios)])
        table = _table(["", *(rival.title for rival in rivals)], rows)
        parts.append(f"**{ours.title}**, as a multiple of the rival:\n\n{table}")
    return _section("Ratios", "\n".join(parts)) if parts else ""


def _goals(results: Results) -> str:
    rows = []
    explanation = ""
    for goal in GOALS:
        reached = goal.reached(results)
        load = next((one for one in results.loads if one.name == goal.load), None)
        if reached is None or load is None:
            continue
        found, is_met = reached
        most = None if goal.rival is None else results.ratio(YARDSTICK.name, goal.rival, load)
        if most is not None:
            explanation = f"\n{MOST}"
        rows.append(
            [
                load.title,
                TITLES[goal.ours],
                _goal_text(goal, load),
                _most_text(goal, load, most),
                _ratio(found) if goal.rival else f"{_count(found)} {load.unit}",
                "yes" if is_met else "**no**",
            ]
        )
    if not rows:
        return ""
    heads = ["load", "server", "goal", "most possible", "measured", "met"]
    return _section("Goals", _table(heads, rows) + explanation)


def _goal_text(goal: Goal, load: Load) -> str:
    sign = "≤" if load.least_is_best else "≥"
    if goal.rival is None:
        return f"{sign} {_count(goal.bound)} {load.unit}"
    return f"{sign} {goal.bound:g} times {TITLES[goal.rival]}"


def _most_text(goal: Goal, load: Load, most: float | None) -> str:
    if most is None:
        return "—"
    return _ratio(most) if goal.is_met_by(most, load) else f"**{_ratio(most)}**"


# What to think of it


def _checks(results: Results) -> str:
    measured = [
        Measured(contestant, load, figure)
        for contestant in CONTESTANTS
        for load in results.loads
        if (figure := results.figure(contestant.name, load)) is not None
    ]
    lines = [*_delivery_lines(measured), *_generator_lines(measured), *_noise_lines(measured)]
    for contestant in CONTESTANTS:
        if why := results.left_out.get(contestant.name):
            lines.append(f"Left out: {contestant.title}, because {why}.")
        for load in results.loads:
            if why := results.failure(contestant.name, load):
                lines.append(f"{contestant.title} failed at {load.title}: {_one_line(why)}")
    return _section("Quality of the measurement", "".join(f"* {line}\n" for line in lines))


def _delivery_lines(measured: Sequence[Measured]) -> Iterator[str]:
    total = sum(figure.deliveries for _, _, figure in measured)
    if not total:
        return
    wrong = [
        f"{contestant.title}, {load.title}: "
        + (", ".join(f"{count} {name}" for name, count in figure.faults.items()) or "it stalled")
        for contestant, load, figure in measured
        if figure.faults or figure.stalled
    ]
    if wrong:
        yield f"{_count(total)} deliveries were checked. Wrong: {'; '.join(wrong)}."
    else:
        yield f"{_count(total)} deliveries were checked: none lost, none twice, none out of order, none damaged."


def _generator_lines(measured: Sequence[Measured]) -> Iterator[str]:
    rivals = [one for one in measured if not one.contestant.yardstick]
    if rivals:
        busiest = max(rivals, key=lambda one: one.figure.generator_busy)
        yield (
            f"The generator was busy for {busiest.figure.generator_busy:.0%} of the time at most "
            f"({busiest.contestant.title}, {busiest.load.title})."
        )
    # Several processes share the cores: what one of them uses says little.
    working = [
        one
        for one in rivals
        if one.load.kind not in ("idle", "acknowledged") and not one.load.is_across
    ]
    if working:
        full = sum(one.figure.server_busy >= FULL for one in working)
        least = min(working, key=lambda one: one.figure.server_busy)
        yield (
            f"The server used {FULL:.0%} of its core or more in {full} of {len(working)} figures, and never less than "
            f"{least.figure.server_busy:.0%} ({least.contestant.title}, {least.load.title})."
        )
    yardsticks = [one for one in measured if one.contestant.yardstick]
    if yardsticks:
        busiest = max(yardsticks, key=lambda one: one.figure.generator_busy)
        yield (
            f"The generator can take at least what {YARDSTICK.title} sends. Then it was busy for "
            f"{busiest.figure.generator_busy:.0%} of the time at most ({busiest.load.title})."
        )


def _noise_lines(measured: Sequence[Measured]) -> Iterator[str]:
    # The processes of PostgreSQL come and go with its connections: they count as others.
    measured = [one for one in measured if not one.contestant.on_postgres]
    loud = [one.figure.others_busy for one in measured if one.figure.others_busy > NOISE]
    if loud:
        yield (
            f"**The machine was not quiet**: in {len(loud)} of {len(measured)} figures other programs used more than "
            f"{NOISE:.0%} of a core, up to {max(loud):.0%}."
        )
    elif measured:
        yield f"Nothing else on the machine used more than {NOISE:.0%} of a core."


def _who(results: Results) -> str:
    rows = [
        [_name(contestant), contestant.description]
        for contestant in CONTESTANTS
        if contestant.name in results.cells
    ]
    return _section("Contestants", _table(["", ""], rows)) if rows else ""


def _where(results: Results) -> str:
    machine = [[name, value] for name, value in results.machine.items()]
    machine.append(
        ["measured", f"{results.started}, {results.rounds} rounds of {results.seconds:g} s"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return _section("Machine and versions", _table(["", ""], machine) + f"\n{versions}\n")


# Words and numbers


def _taking_part(results: Results) -> list[Contestant]:
    return [
        contestant
        for contestant in CONTESTANTS
        if not contestant.yardstick
        and not contestant.only
        and contestant.processes == 1
        and contestant.name in results.cells
    ]


def _within(results: Results) -> list[Load]:
    """Return the loads that each server of one process gets."""
    return [load for load in results.loads if not load.is_across and load.kind != "acknowledged"]


def _name(contestant: Contestant) -> str:
    return f"**{contestant.title}**" if contestant.ours else contestant.title


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "—"
    return _count(figure.value) + (" (!)" if figure.faults or figure.stalled else "")


def _delay_cell(figure: Figure | None) -> str:
    if figure is None or not figure.delays:
        return "—"
    return " · ".join(_milliseconds(figure.delays[name]) for name in QUANTILES)


def _server_each(figure: Figure | None) -> str:
    if figure is None or figure.server_each is None:
        return "—"
    return f"{figure.server_each * 1e6:.0f}"


def _milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1000:.{2 if microseconds < 10_000 else 0}f}"


def _count(number: float) -> str:
    """Three digits are what such a figure is good for."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.2g}" if ratio >= 10 else f"{ratio:.2f}"


def _one_line(why: str) -> str:
    return " ".join(why.split())[:200]


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
