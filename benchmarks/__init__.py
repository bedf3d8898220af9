"""The server against others, in figures: ``make bench``. Start reading at ``__main__``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "benchmarks"
RESULTS = HERE / "results"
BUILD = HERE / "build"

HOST = "127.0.0.1"
