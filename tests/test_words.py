"""The words of docs/reference/glossary.md, kept in the code: no replaced name comes back, no docstring asks."""

import ast
import re
from collections.abc import Iterable, Iterator

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


def names(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    """Every name that the code defines or uses, with its line."""
    for node in nodes:
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


def docstrings(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    """Every string that stands by itself, that of an attribute included, with its line."""
    for node in nodes:
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text.strip(), node.lineno


def breaches(tree: ast.AST) -> Iterator[str]:
    """Find what is not in the words of the glossary, with its line."""
    nodes = list(ast.walk(tree))
    for found, line in names(nodes):
        if found in REPLACED:
            yield f"{line}: {found}, now {REPLACED[found]}"
        elif found.endswith("_SECONDS") and not found.endswith("HSTS_SECONDS"):
            yield f"{line}: {found}, now a timeout, an interval or a grace"
    for text, line in docstrings(nodes):
        if QUESTION.match(text):
            yield f"{line}: {text[:40]!r} begins with a question word"


def test_the_sources_use_the_words_of_the_glossary() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{breach}"
        for path in SOURCES
        for breach in breaches(ast.parse(path.read_text()))
    ]
    assert ROOT / "dwsps_channels" / "conf.py" in SOURCES
    assert found == []


def test_a_replaced_name_is_found() -> None:
    source = """
from a.connection_trial import b
class Lane:
    def take_leave(self): ...
WAIT_SECONDS = 1
class A:
    '''Who is it.'''
"""

    found = {breach.partition(",")[0] for breach in breaches(ast.parse(source))}

    assert found == {
        "2: connection_trial",
        "3: Lane",
        "4: take_leave",
        "5: WAIT_SECONDS",
        "7: 'Who is it.' begins with a question word",
    }
