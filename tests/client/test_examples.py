"""The examples of docs/reference/python.md do as printed, against a server of the project's."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.processes import ROOT, Server, ServerFactory, wait_until

PRINTED_URL = "ws://127.0.0.1:8000/ws/pubsub/"
TEXT = (ROOT / "docs" / "reference" / "python.md").read_text()
PROGRAMS = [
    code
    for code in re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    if PRINTED_URL in code and "print(" in code
]
COMMANDS = re.findall(r"^\$ python -m (.+)$", TEXT, re.MULTILINE)


@pytest.fixture
def running(start_server: ServerFactory) -> Server:
    return start_server("fastlane")


def first_line(command: Sequence[str], folder: Path) -> str:
    """Return the first line that the process prints, and end it: most examples run until they are stopped."""
    with (
        (folder / "errors").open("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
        finally:
            process.kill()
        assert line, (folder / "errors").read_text()
    return line


def test_programs_print_what_they_publish(running: Server, tmp_path: Path) -> None:
    assert len(PROGRAMS) == 2
    for program in PROGRAMS:
        code = program.replace(PRINTED_URL, running.url)
        # Unbuffered, since it never comes to its end.
        line = first_line([sys.executable, "-u", "-c", code], tmp_path)
        assert line == "news.uk {'headline': 'Rain'}\n"


def test_commands_do_as_printed(running: Server, tmp_path: Path) -> None:
    subscribe, publish = (
        [sys.executable, "-m", *shlex.split(command.replace(PRINTED_URL, running.url))]
        for command in COMMANDS
    )
    printed = tmp_path / "printed"

    def published_and_printed() -> str:
        done = subprocess.run(publish, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return printed.read_text()

    with (
        printed.open("w") as output,
        subprocess.Popen(subscribe, cwd=ROOT, stdout=output) as subscriber,
    ):
        try:
            line = wait_until(published_and_printed, 60, "a message printed").splitlines()[0]
        finally:
            subscriber.kill()
    message = json.loads(line)
    assert message.pop("timestamp")
    assert message == {"topic": "news.uk", "context": "news", "message": {"headline": "Rain"}}
