"""A how-to page as data: the files that it names, and the commands that it types."""

import re
import shlex
import textwrap
from functools import cached_property
from typing import NamedTuple

from tests.processes import ROOT

HOW_TO = ROOT / "docs" / "how-to"

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S
)
LABEL = re.compile(r"`(?P<path>[^`\s]+)`:$")
# Their blocks show what is typed and what comes of it, not a file.
TRANSCRIPTS = ("console", "text")


class Block(NamedTuple):
    """
    A block of code, and the line before it.

    `path` is what that line names, and None for a transcript. `appends` if the line says "At the end of".
    """

    language: str
    code: str
    path: str | None
    appends: bool


class Page:
    """The Markdown `text` of a page; `name` is the file's, without its suffix."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @classmethod
    def read(cls, name: str) -> "Page":
        """Read docs/how-to/`name`.md."""
        return cls(name, (HOW_TO / f"{name}.md").read_text())

    def section(self, heading: str) -> "Page":
        """Give one section as a page, for a page that tells several ways; named after the page and its heading."""
        _, found, rest = self.text.partition(f"\n## {heading}\n")
        assert found, f"{self.name} has no section {heading!r}"
        return Page(f"{self.name}-{heading.lower().replace(' ', '-')}", rest.partition("\n## ")[0])

    @cached_property
    def blocks(self) -> list[Block]:
        """
        All blocks of code, in the page's order.

        Raises:
            AssertionError: the line before a file's block does not end with the file's name, as in "`shop/views.py`:".
        """
        found = []
        for match in FENCE.finditer(self.text):
            language, code = match["language"], textwrap.dedent(match["code"])
            before = self.text[: match.start()].rstrip().rpartition("\n")[2].strip()
            label = None if language in TRANSCRIPTS else LABEL.search(before)
            if label is None and language not in TRANSCRIPTS:
                raise AssertionError(
                    f"{self.name}: no file name before this block, but {before!r}:\n{code}"
                )
            appends = label is not None and "t the end of `" in before
            found.append(Block(language, code, label and label["path"], appends))
        return found

    @cached_property
    def files(self) -> dict[str, str]:
        """Return the content of each file that the page names, at the end of the page."""
        files: dict[str, str] = {}
        for block in self.blocks:
            if block.path is not None:
                before = files.get(block.path, "") if block.appends else ""
                files[block.path] = before + ("\n" if before else "") + block.code
        return files

    @cached_property
    def appended(self) -> set[str]:
        """The files that the page only appends to, so that the reader has to have them already."""
        written = {block.path for block in self.blocks if not block.appends}
        return self.files.keys() - written

    @cached_property
    def commands(self) -> list[str]:
        """Return the commands that the page types after "$ ", one line each."""
        return [
            re.sub(r"\s*\\\n\s*", " ", command).strip()
            for block in self.blocks
            if block.language == "console"
            for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block.code, re.M)
        ]

    def command(self, beginning: str) -> list[str]:
        """
        Give the arguments of the command that is this, or the one that begins so.

        Raises:
            AssertionError: the page types no such command, or several.
        """
        found = [command for command in self.commands if command == beginning] or [
            command for command in self.commands if command.startswith(beginning)
        ]
        assert len(found) == 1, (
            f"{self.name} types {beginning!r} {len(found)} times: {self.commands}"
        )
        return shlex.split(found[0])


def first_step() -> dict[str, str]:
    """
    Give the two files that the tutorial's first step is about, for a project called `myproject`.

    How-to pages begin with such a project. `settings.py` is what is to be added or replaced.
    """
    text = (ROOT / "docs" / "tutorial" / "live-page.md").read_text()
    section = text.partition("\n## 1. ")[2].partition("\n## ")[0]
    settings, asgi = (m["code"] for m in FENCE.finditer(section) if m["language"] == "python")
    # The tutorial's app is its later steps' affair.
    settings = settings.replace('    "board",\n', "")
    return {
        "settings.py": settings.replace("scores", "myproject"),
        "asgi.py": asgi.replace("scores", "myproject"),
    }
