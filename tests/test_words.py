"""The words of docs/reference/glossary.md, kept in the code: no replaced name comes back, no docstring asks."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT

SOURCES = sorted(
    path
    for folder in ("dwsps_channels", "project", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if not {"node_modules", ".venv"} & set(path.parts)
)

# Each stood for something that the glossary calls by the field's word.
REPLACED = {
    "Answers": "ReplyQueue",
    "Beating": "Pinger",
    "Bus": "Broker",
    "CROWD": "MIN_BROADCAST",
    "Condition": "StatusSummary",
    "Courier": "Broadcaster",
    "Denied": "Rejected",
    "Finding": "ProbeResult",
    "Flusher": "BatchWriter",
    "Granted": "Authenticated",
    "Ground": "ServerResources",
    "Lane": "ConnectionTakeover",
    "MATTERS": "_stamp_changes",
    "ORDINARY": "UNAUTHENTICATED",
    "Presented": "Credential",
    "Promise": "Future",
    "Rider": "ConnectionHandler",
    "Seen": "Deduplicator",
    "Senders": "GapDetector",
    "Tap": "FeedRequest",
    "Tapped": "FeedEntry",
    "Tone": "Severity",
    "Unblocked": "ThreadOffloadingPolicy",
    "WaitingLine": "SendQueue",
    "_Confused": "ProtocolViolation",
    "_meanwhile_unread": "_with_reading_paused",
    "_meet": "_check_identity",
    "_send_away": "_close_going_away",
    "_take_note": "_stamp_changes",
    "_take_token": "_extract_token",
    "_understand": "_handle_frame",
    "connection_trial": "connection_test",
    "fall_behind": "on_slow_consumer",
    "fall_silent": "on_ping_timeout",
    "farewell": "final_frame",
    "is_broken": "has_failed",
    "pass_over": "take_unsent",
    "patience": "timeout",
    "relief": "drained",
    "take_leave": "begin_close",
}

# A docstring is a noun phrase or an imperative.
QUESTION = re.compile(r"(Who|Whom|Whose|Whoever|What|Whatever|Whether)\b")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that the code defines or uses, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=found) | ast.Attribute(attr=found) | ast.arg(arg=found):
                yield found, node.lineno
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found):
                yield found, node.lineno
            case ast.AsyncFunctionDef(name=found):
                yield found, node.lineno
            case ast.Import(names=imported):
                yield from (
                    (part, node.lineno) for each in imported for part in each.name.split(".")
                )
            case ast.ImportFrom(module=module, names=imported):
                parts = [*(module or "").split("."), *(each.name for each in imported)]
                yield from ((part, node.lineno) for part in parts)


def docstrings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every string that stands by itself, that of an attribute included, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text.strip(), node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_source_uses_the_words_of_the_glossary(path: Path) -> None:
    tree = ast.parse(path.read_text())

    assert [
        f"{line}: {found}, now {REPLACED[found]}"
        for found, line in names(tree)
        if found in REPLACED
    ] == []
    assert [
        f"{line}: {found}, now a timeout, an interval or a grace"
        for found, line in names(tree)
        if found.endswith("_SECONDS") and not found.endswith("HSTS_SECONDS")
    ] == []
    assert [
        f"{line}: {text[:40]!r} begins with a question word"
        for text, line in docstrings(tree)
        if QUESTION.match(text)
    ] == []


def test_a_replaced_name_is_found() -> None:
    tree = ast.parse("from a.connection_trial import b\nclass Lane:\n    def take_leave(self): ...")

    assert {found for found, _ in names(tree) if found in REPLACED} == {
        "Lane",
        "connection_trial",
        "take_leave",
    }
    assert [text for text, _ in docstrings(ast.parse('class A:\n    """Who is it."""'))] == [
        "Who is it."
    ]
