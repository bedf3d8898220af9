"""The load generator: a C program (``generator/``), built where it is needed, run once for each measurement."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import BUILD, HERE
from benchmarks.loads import Load
from benchmarks.processes import Failure, on_core

SOURCES = HERE / "generator"
CEILING_SOURCE = HERE / "rivals" / "ceiling.c"
COMPILER = "gcc"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")

# Opened before an idle server's memory is looked at, so that what it loads and keeps with the first is not counted.
WARMING = 200

Measurement = dict[str, Any]
"""A load as the generator prints it: see ``load_publish`` and its like. For idle connections, ``bytes_each``."""


def build(folder: Path = BUILD) -> Path:
    """Compile the generator unless that was done since its sources changed; the program's path."""
    return _compile(
        folder / "generator",
        [*SOURCES.glob("*.c"), *SOURCES.glob("adapters/*.c")],
        headers=SOURCES.glob("*.h"),
    )


def build_ceiling(folder: Path = BUILD) -> Path:
    """Compile the yardstick."""
    headers = [SOURCES / "buffer.h"]
    return _compile(folder / "ceiling", [CEILING_SOURCE, SOURCES / "buffer.c"], headers=headers)


def _compile(program: Path, sources: list[Path], headers: Iterable[Path]) -> Path:
    changed = max(path.stat().st_mtime for path in [*sources, *headers])
    if program.exists() and program.stat().st_mtime > changed:
        return program
    if shutil.which(COMPILER) is None:
        raise Failure(f"{COMPILER} is not installed")
    program.parent.mkdir(exist_ok=True)
    draft = program.with_suffix(".new")
    subprocess.run([COMPILER, *FLAGS, "-o", draft, *sorted(sources), "-lm"], check=True)
    draft.replace(program)
    return program


@dataclass(frozen=True)
class Target:
    """Where a contestant listens, and how it is spoken to."""

    adapter: str
    port: int
    path: str
    pids: Sequence[int]
    """The server's process first, then what helps it."""
    publish_port: int | None = None
    """Of the process to which publishers connect, if the server has several."""

    def arguments(self) -> list[str]:
        processes = [word for pid in self.pids for word in ("--server", str(pid))]
        target = ["--adapter", self.adapter, "--port", str(self.port), "--path", self.path]
        if self.publish_port is not None:
            target += ["--publish-port", str(self.publish_port)]
        return [*target, *processes]


def measure(
    load: Load,
    target: Target,
    *,
    core: int | None,
    warm_up: float,
    seconds: float,
    timeout: int,
    memory: Callable[[], int],
) -> Measurement:
    """Put the load on the target.

    ``core``: of the generator; ``None``: any. ``memory`` gives the bytes that the server has, and is asked while
    connections are held. ``timeout``: whole seconds until the measurement is given up.

    Raises:
        Failure: it could not be measured; says why.
    """
    command = [str(build()), load.command, *target.arguments(), *load.arguments()]
    command += ["--timeout", str(timeout)]
    if load.kind == "idle":
        command += ["--warming", str(WARMING)]
    if load.command == "publish":
        command += ["--warm-up", str(warm_up), "--seconds", str(seconds)]
    with (
        on_core(core),
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            measurement, held = _follow(process, memory)
            _, errors = process.communicate()
        finally:
            process.kill()
    if process.returncode != 0:
        raise Failure(errors.strip())
    if load.kind == "idle":
        each = (held["all"] - held["warming"]) / load.options["connections"]
        return {"connections": load.options["connections"], "bytes_each": each}
    if load.kind == "recovery":
        measurement["memory_rise"] = held["recovered"] - held["connected"]
    return measurement


def _follow(
    process: "subprocess.Popen[str]", memory: Callable[[], int]
) -> tuple[Measurement, dict[str, int]]:
    """Read what it prints: its result, and the server's bytes whenever connections were held, by what for."""
    assert process.stdin is not None
    assert process.stdout is not None
    measurement: Measurement = {}
    held = {}
    for line in process.stdout:
        message = json.loads(line)
        if "held" not in message:
            measurement = message
            continue
        held[message["held"]] = memory()
        process.stdin.write("\n")  # let go
        process.stdin.flush()
    return measurement, held
