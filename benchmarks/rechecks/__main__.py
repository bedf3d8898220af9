"""Have a server recheck thousands of clients; measure how long that takes, and what others notice of it."""

import argparse
import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from benchmarks import HOST
from benchmarks.contestants import CONTESTANTS, prepare, started
from benchmarks.processes import Cores, Failure, most_files, on_core
from benchmarks.rechecks.clients import Crowd, Pair

TOPIC = "news"

# Seconds between the publishes of the pair, and for which it is measured on a quiet server first.
INTERVAL = 0.005
QUIET = 1.0

HANDSHAKES_AT_ONCE = 48
TIMEOUT = 120.0


@dataclass
class Row:
    """The figures of one kind of recheck."""

    title: str
    delays: list[float]
    """Of the pair, in seconds."""
    held_back: float = 0.0
    """Seconds until nobody gets anything any more that is not decided again."""
    decided: float = 0.0
    """Seconds until everything is decided."""
    questions: int = 0
    most_at_once: int = 0


async def measure(port: int, connections: int) -> list[Row]:
    """Measure a server that has just started.

    Raises:
        Failure: it refuses a connection, or loses a subscription or a delivery.
    """
    crowd, pair = Crowd(), Pair()
    crowd_user, pair_user = await _get(port, "user/crowd"), await _get(port, "user/pair")
    async with AsyncExitStack() as stack:
        stack.callback(crowd.close)
        stack.push_async_callback(pair.close)
        await crowd.open(port, crowd_user["token"], TOPIC, connections, HANDSHAKES_AT_ONCE)
        await _until(lambda: crowd.acks == connections, "each is subscribed")
        await pair.open(port, pair_user["token"], INTERVAL)
        # What it takes to collect this process's own garbage is no delay of the server's.
        gc.collect()
        gc.disable()
        await asyncio.sleep(QUIET)
        await _until(pair.has_delays, "the pair has its deliveries")
        rows = [Row("nothing", pair.delays)]
        for title, query in {
            "policy asked": {"topic": TOPIC},
            "users looked up, policy asked": {"user": crowd_user["pk"]},
            "policy fails": {"topic": TOPIC, "fails": ""},
        }.items():
            pair.delays = []
            figures = await _get(port, f"recheck?{urlencode(query)}")
            await _until(pair.has_delays, "the pair has its deliveries")
            rows.append(Row(title, pair.delays, **figures))
            pair.delays = []
            pair.publish(TOPIC)
            expected = (0, connections) if "fails" in query else (connections, 0)
            await _until(partial(crowd.has_had, *expected), f"{title}: everybody has had it")
        pair.delays = []
        query = {"user": crowd_user["pk"], "disconnect": ""}
        figures = await _get(port, f"recheck?{urlencode(query)}")
        await _until(lambda: crowd.errors == connections, "everybody is told to be out")
        await _until(pair.has_delays, "the pair has its deliveries")
        rows.append(Row("user disconnected", pair.delays, **figures))
        gc.enable()
        return rows


def run(connections: int, policy: str) -> list[Row]:
    """Start a server with one of the policies of ``policies``, and measure it."""
    cores = Cores.choose()
    fast_lane = next(each for each in CONTESTANTS if each.name == "fastlane")
    ours = {
        "DJANGO_SETTINGS_MODULE": "benchmarks.rechecks.settings",
        "BENCHMARK_POLICY": policy,
    }
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as folder,
        on_core(cores.generator),
        most_files() as most_connections,
    ):
        if connections > most_connections:
            raise Failure("too few open files are allowed (ulimit -n)")
        prepare(Path(folder))
        contestant = replace(fast_lane, env=tuple(ours.items()))
        with started(contestant, cores, Path(folder)) as running:
            return asyncio.run(measure(running.target.port, connections))


def table(rows: Sequence[Row]) -> str:
    """Return the figures as a table in Markdown."""
    lines = [
        "| recheck | all held back | all decided | questions | at once | others' delay: p50 · p99 · max |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        percentiles = quantiles(row.delays, n=100)
        delays = (percentiles[49], percentiles[98], max(row.delays))
        cells = [
            row.title,
            f"{row.held_back:.2f} s",
            f"{row.decided:.1f} s",
            str(row.questions),
            str(row.most_at_once),
            " · ".join(f"{delay * 1000:.1f}" for delay in delays) + " ms",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


async def _get(port: int, path: str) -> Any:
    with await asyncio.to_thread(
        urlopen, f"http://{HOST}:{port}/{path}", timeout=TIMEOUT
    ) as answer:
        return json.loads(answer.read())


async def _until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(TIMEOUT):
            while True:
                if condition():
                    return
                await asyncio.sleep(INTERVAL)
    except TimeoutError:
        raise Failure(f"not within {TIMEOUT:g} s: {what}") from None


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rechecks", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="10000")
    parser.add_argument("--policy", choices=["Plain", "Async"], default="Plain", help="Plain")
    arguments = parser.parse_args()
    try:
        print(table(run(arguments.connections, arguments.policy)))
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
