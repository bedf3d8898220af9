"""Measure the server against others, and report."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import HERE, RESULTS, ROOT, report, tournament
from benchmarks.contestants import CONTESTANTS
from benchmarks.loads import all_loads
from benchmarks.processes import Failure
from benchmarks.results import Results

DOCUMENT = ROOT / "docs" / "explanation" / "performance.md"
CHART = ROOT / "docs" / "explanation" / "images" / "performance.svg"
REMARKS = HERE / "remarks.md"


def main(words: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    arguments = _parser().parse_args(words)
    if arguments.results is not None:
        results = Results.read(arguments.results)
    else:
        try:
            results = _measure(arguments)
        except Failure as failure:
            print(failure, file=sys.stderr)
            return 1
    whole = not (results.quick or arguments.contestants or arguments.loads)
    document, chart = (DOCUMENT, CHART) if whole else _beside_results()
    document.write_text(report.text(results, REMARKS.read_text() if REMARKS.exists() else ""))
    chart.write_text(report.chart(results))
    print(f"written: {document}, {chart}")
    return 0


def _measure(arguments: argparse.Namespace) -> Results:
    quick: bool = arguments.quick
    loads = [
        load
        for load in all_loads(quick=quick)
        if not arguments.loads or load.name in arguments.loads
    ]
    contestants = [
        contestant
        for contestant in CONTESTANTS
        if not arguments.contestants or contestant.name in arguments.contestants
    ]
    pace = tournament.QUICK if quick else tournament.FULL
    began = time.monotonic()
    results = tournament.run(contestants, loads, pace, quick=quick, say=_say)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    results.save(path)
    _say(f"measured in {time.monotonic() - began:.0f} s: {path}")
    return results


def _beside_results() -> tuple[Path, Path]:
    # What part of a run says is not what the documents are to show.
    (RESULTS / "images").mkdir(parents=True, exist_ok=True)
    return RESULTS / "performance.md", RESULTS / "images" / "performance.svg"


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the server against others. Writes docs/explanation/performance.md and its chart; "
        "with any of the options, benchmarks/results/performance.md.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="two minutes, to see that all works; not to be quoted"
    )
    parser.add_argument(
        "--contestants",
        nargs="+",
        metavar="NAME",
        choices=[contestant.name for contestant in CONTESTANTS],
        help=f"these only: {', '.join(contestant.name for contestant in CONTESTANTS)}",
    )
    parser.add_argument(
        "--loads",
        nargs="+",
        metavar="NAME",
        choices=[load.name for load in all_loads(quick=False)],
        help=f"these only: {', '.join(load.name for load in all_loads(quick=False))}",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="measure nothing: write the report of this file",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
