"""The machine and the versions that the figures were measured with."""

import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.contestants import NODE_MODULES, RIVALS_BIN
from benchmarks.postgres import program as postgres_program
from benchmarks.processes import Cores

_OURS = (
    "django",
    "channels",
    "channels-redis",
    "daphne",
    "twisted",
    "autobahn",
    "uvicorn",
    "websockets",
    "uvloop",
    "httptools",
    "msgspec",
    "psycopg",
)
_THEIRS = ("socketify", "fastapi-websocket-pubsub", "fastapi", "uvicorn", "websockets")
_NODES = ("ws", "socket.io")

_VERSION = re.compile(r"\d+(\.\d+)+[\w.+-]*")


def describe(cores: Cores) -> dict[str, str]:
    """Describe the machine, a line for each fact."""
    return {
        "processor": f"{_model()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{_distribution()}, Linux {platform.release()}, {platform.machine()}",
        "cores": "server and generator share one: no figure here is worth much"
        if cores.shared
        else f"server on {cores.server}, generator on {cores.generator}",
    }


def versions() -> dict[str, str]:
    """Of all that took part, as far as it is there."""
    import dwsps_channels

    found = {"Python": platform.python_version(), "dwsps-channels": dwsps_channels.__version__}
    for name in _OURS:
        if version := _installed_here(name):
            found[name] = version
    for name, version in _installed_for_rivals().items():
        found[f"{name} (rivals')" if name in found else name] = version
    for name in _NODES:
        package = NODE_MODULES / name / "package.json"
        if package.exists():
            found[name] = json.loads(package.read_text())["version"]
    for program in ("node", "nats-server", "redis-server", "gcc"):
        if version := _said_by([program, "--version"]):
            found[program] = version
    found["SQLite"] = sqlite3.sqlite_version
    postgres = postgres_program("postgres")
    if postgres and (version := _said_by([postgres, "--version"])):
        found["PostgreSQL"] = version
    return found


def _installed_here(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _installed_for_rivals() -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json, sys\n"
        "there = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: there[n] for n in sys.argv[1:] if n in there}))"
    )
    python = RIVALS_BIN / "python"
    if not python.exists():
        return {}
    output = subprocess.run(
        [python, "-c", code, *_THEIRS], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = json.loads(output)
    return found


def _said_by(command: Sequence[str]) -> str | None:
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    match = _VERSION.search(output)
    return match[0] if match else None


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return sys.platform
