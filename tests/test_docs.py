"""The documents against the repository: links lead somewhere, code compiles, nothing is left out.

``tests/checks/test_settings.py`` has the same for the checks.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from django.dispatch import Signal
from msgspec import structs

from dwsps_channels import conf, signals
from dwsps_channels.core import deduplicator, keys
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.timings import Timings
from dwsps_channels.management.commands import peers
from dwsps_channels.peering import worker
from dwsps_channels.peering.outbound import window
from dwsps_channels.peering.outbound.forwarder import ForwarderStats
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats
from dwsps_channels.protocol import errors
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.server import runtime
from tests.processes import ROOT

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("tests/*.md"),
        *ROOT.glob("tests/howto/*.md"),
    ]
)
CODE_THAT_CITES = sorted(
    path
    for folder in ("dwsps_channels", "project", "tests")
    for pattern in ("*.py", "*.js", "*.mjs", "*.ts")
    for path in (ROOT / folder).rglob(pattern)
    if "node_modules" not in path.parts
)

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^]]*]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CITATION = re.compile(r'docs/([\w/-]+\.md), "([^"]+)"')


class Block(NamedTuple):
    language: str
    code: str


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(document: Path) -> Iterator[Block]:
    for match in FENCE.finditer(document.read_text()):
        yield Block(match[2], textwrap.dedent(match[3]))


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """The fragments that a reader can jump to, as GitHub makes them of headings."""
    headings = HEADING.findall(prose(document))
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    dead = []
    for link in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (fragment and fragment not in anchors(target)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_blocks_in_lists_are_indented_as_every_viewer_needs_it(document: Path) -> None:
    """Two or three spaces suffice on GitHub; the site needs four."""
    outside = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^ {1,3}(?=```|\|)|\n\n {1,3}(?=\S)", outside, re.MULTILINE)
    assert blocks == []
    assert re.findall(r"\n\n    \S.*(?:\n    .*)*\n(?=[*-] )", outside) == [], "needs an empty line"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_python_in_documents_compiles(document: Path) -> None:
    for block in blocks(document):
        if block.language == "python":
            ast.parse(block.code)  # its error shows the line


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_make_targets_in_documents_exist(document: Path) -> None:
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:`|^\$ )make ([a-z][\w-]*)", document.read_text(), re.MULTILINE)
    assert set(named) <= {target for line in targets for target in line.split()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_tests_in_documents_exist(document: Path) -> None:
    """A page may name a file or folder of tests, and one test in a file after `::`."""
    missing = []
    for cited in re.findall(r"`(tests/[^`\s]+)`", document.read_text()):
        path, _, test = cited.partition("::")
        file = ROOT / path
        if not file.exists() or (test and not re.search(rf"\bdef {test}\(", file.read_text())):
            missing.append(cited)
    assert missing == []


def test_the_readme_of_the_tests_names_every_room() -> None:
    tests = ROOT / "tests"
    cells = re.findall(r"^\| (`.+?`) \| ", (tests / "README.md").read_text(), re.MULTILINE)
    listed = re.findall(r"`([\w/]+)/`", " ".join(cells))
    rooms = {str(path.parent.relative_to(tests)) for path in tests.glob("*/**/test_*.py")}
    rooms |= {"js", "conformance"}  # no Python in them
    assert rooms - set(listed) == set(), "add a row for these"
    assert set(listed) - rooms == set(), "these are gone"


def test_the_architecture_names_the_files_that_are_there() -> None:
    rooms = section("explanation/architecture.md", "Rooms").partition("```\n")[2]
    tree = rooms.partition("\nproject/")[0]
    named = set(re.findall(r"\b(\w+\.py)\b", tree)) - {"manage.py"}
    there = {path.name for path in (ROOT / "dwsps_channels").rglob("*.py")}
    assert named - there == set()


def test_index_and_navigation_list_every_page() -> None:
    docs = ROOT / "docs"
    pages = {str(path.relative_to(docs)) for path in docs.glob("**/*.md")} - {"index.md"}
    table = re.findall(
        r"^\| \[(.+)]\((.+\.md)\) \| ", (docs / "index.md").read_text(), re.MULTILINE
    )
    navigation = re.findall(
        r"^ +- (.+): (.+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE
    )
    assert {path for _, path in table} == pages
    assert navigation == table, "docs/index.md and `nav` in mkdocs.yml list the same, in one order"


def test_sections_that_code_cites_are_there() -> None:
    cited = {
        (document, section)
        for path in CODE_THAT_CITES
        for document, section in CITATION.findall(path.read_text())
    }
    assert ("reference/protocol.md", "Topics") in cited
    missing = [
        (document, section)
        for document, section in sorted(cited)
        if section not in HEADING.findall(prose(ROOT / "docs" / document))
    ]
    assert missing == []


def test_the_table_of_counters_has_every_field() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    table = re.findall(r"^\| `(\w+Stats)` \| `[^`]+` \| (.+) \|$", text, re.MULTILINE)
    documented = {struct: tuple(re.findall(r"`(\w+)`", fields)) for struct, fields in table}
    of_a_server = structs.fields(runtime.RuntimeStats)
    counters = [runtime.RuntimeStats, *(each.type for each in of_a_server), LinkStats]
    assert documented == {
        each.__name__: each.__struct_fields__
        for each in (*counters, ForwarderStats)
        if each is not int
    }


def test_every_setting_has_a_section_with_its_default() -> None:
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    sections = dict(re.findall(r"^### `(\w+)`\n\n([^\n]+)", text, re.MULTILINE))
    assert sections.keys() == set(conf.KEYS)
    # Defaults, since the tests' own DWSPS is empty.
    defaults = {key: getattr(conf.conf, key) for key in conf.KEYS}
    assert defaults.pop("TIMINGS") == Timings()
    timings = re.findall(r"^\| `([A-Z_]+)` \| `([\d.]+)` \| ", text, re.MULTILINE)
    assert {key: float(default) for key, default in timings} == structs.asdict(Timings())
    for key, default in defaults.items():
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        assert f"Default: `{shown}`" in sections[key], key


def test_the_table_of_settings_lists_them_in_order() -> None:
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \| ", text, re.MULTILINE)
    headings = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    assert rows == [(key, key.lower()) for key in headings]
    assert headings == list(conf.KEYS)


def test_every_setting_is_read_somewhere() -> None:
    read = {
        node.attr
        for path in (ROOT / "dwsps_channels").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert set(conf.KEYS) - read == set()
    assert set(Timings.__struct_fields__) - read == set()


def test_every_environment_variable_of_the_demo_project_is_explained() -> None:
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    text = text.partition("## The demo project's environment")[2]
    listed = re.findall(r"^\| `([A-Z_]+)` \| .+ \| .+ \|$", text, re.MULTILINE)
    source = (ROOT / "project" / "settings.py").read_text()
    described = re.findall(
        r"^ *([A-Z_]+)  +\S",
        ast.get_docstring(ast.parse(source), clean=False) or "",
        re.MULTILINE,
    )
    assert described
    assert sorted(listed) == sorted(described)


def test_every_error_code_is_in_the_protocol_with_what_a_client_may_do() -> None:
    text = (ROOT / "docs" / "reference" / "protocol.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \| .+ \|$", text, re.MULTILINE))
    codes = {
        error.code: "yes" if error.retryable else "no"
        for error in errors.WireError.__subclasses__()
    }
    assert listed == codes


def test_every_close_code_is_in_the_protocol() -> None:
    text = (ROOT / "docs" / "reference" / "protocol.md").read_text()
    listed = {int(code) for code in re.findall(r"^ *\| (\d{4}) \| ", text, re.MULTILINE)}
    assert listed == set(CloseCode)


def test_default_limits_are_those_of_the_protocol() -> None:
    text = (ROOT / "docs" / "reference" / "protocol.md").read_text()
    section = text.partition("\n## Limits\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| [^|]+ \| (?:(none)|([\d ]+)[^|]*) \| ", section, re.MULTILINE)
    values = [None if none else int(digits.replace(" ", "")) for none, digits in shown]
    limits = Limits()
    assert values == [
        limits.message_bytes,
        limits.message_depth,
        limits.subscriptions,
        limits.subscription_bytes,
        limits.buffered_bytes,
        limits.rate,
    ]


def test_bounds_of_recovery_are_those_of_the_code() -> None:
    text = section("reference/protocol.md", "Recovery")
    [(messages, mib)] = re.findall(
        r"([\d ]+) messages\s.*?(\d+) MiB \(\[`RESUME_BYTES`]", text, re.DOTALL
    )
    assert int(messages.replace(" ", "")) == conf.conf.RESUME_MESSAGES
    assert int(mib) * 1024 * 1024 == conf.conf.RESUME_BYTES
    [remembered] = re.findall(r"at most ([\d ]+) keys", text)
    assert int(remembered.replace(" ", "")) == keys.MAX_KEYS
    assert "within five minutes" in text
    assert keys.MAX_AGE == 5 * 60


def test_every_signal_is_explained() -> None:
    text = (ROOT / "docs" / "reference" / "signals.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| ", text, re.MULTILINE)
    assert sorted(listed) == sorted(
        name for name, value in vars(signals).items() if isinstance(value, Signal)
    )


# docs/reference/peering.md


def section(document: str, heading: str) -> str:
    """Return the text below a heading, up to the next one of its level."""
    text = (ROOT / "docs" / document).read_text()
    assert f"\n## {heading}\n" in text
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_every_state_of_a_peer_is_explained() -> None:
    listed = re.findall(r"^\| `(\w+)` \| ", section("reference/peering.md", "States"), re.MULTILINE)
    source = (ROOT / "dwsps_channels" / "peering" / "status.py").read_text()
    beyond_the_worker = re.findall(r'\bStatusSummary\(\s*"(\w+)"', source)
    assert "stale" in beyond_the_worker
    assert sorted(listed) == sorted({*beyond_the_worker, *LinkState})


def test_limits_of_peering_are_those_of_the_code() -> None:
    text = section("reference/peering.md", "What is promised")
    shown = {
        name: [int(digits.replace(" ", "")) for digits in re.findall(r"\d[\d ]*", cell)]
        for name, cell in re.findall(
            r"^\| ([\w ]*\w)[^|]*\| ([^|]*\d[^|]*) \| ", text, re.MULTILINE
        )
    }
    mib = 1024 * 1024
    assert shown == {
        "the log": [
            conf.conf.LOG_MESSAGES,
            conf.conf.LOG_BYTES // mib,
            conf.conf.LOG_MAX_AGE // 3600,
        ],
        "the tail": [
            conf.conf.TAIL_MESSAGES,
            conf.conf.TAIL_BYTES // mib,
            conf.conf.TAIL_MAX_AGE // 60,
        ],
        "deduplication": [
            deduplicator.MAX_IDS,
            deduplicator.MAX_AGE // 60,
            deduplicator.NEWEST_IDS,
            deduplicator.NEWEST_MAX_AGE // 3600,
        ],
        "in flight": [window.IN_FLIGHT_MESSAGES, window.IN_FLIGHT_BYTES // mib],
    }


# The rows of "When something breaks", each with the tests that show it.
BREAKS = {
    "the peer is down": (
        "durability/test_retention.py::test_what_a_peer_misses_beyond_the_log_is_counted_and_said",
        "peering/test_sources.py::test_in_redis",
        "peering/test_sources.py::test_in_the_database",
        "peering/outbound/test_link.py::test_what_the_log_no_longer_has_is_counted",
    ),
    "the link is cut silently": (
        "peering/test_cut.py::test_a_connection_that_is_cut_without_notice_loses_nothing",
        "durability/test_link.py::test_a_link_that_is_cut_without_notice",
    ),
    "the peer answers heartbeats, but no message": (
        "peering/outbound/test_link.py::test_a_server_that_answers_heartbeats_and_no_message_is_connected_to_anew",
    ),
    "the worker dies": (
        "peering/test_killed.py::test_messages_wait_for_a_worker_that_was_killed",
        "durability/test_worker.py::test_a_worker_that_is_killed_loses_nothing",
    ),
    "the worker dies, with a standby": (
        "peering/test_killed.py::test_a_standby_takes_over_from_a_worker_that_was_killed",
        "durability/test_worker.py::test_a_standby_takes_over_a_large_backlog",
    ),
    "the worker is stopped": (
        "peering/test_stopped.py::test_nothing_is_lost_or_comes_twice_or_out_of_order",
        "peering/test_stopped.py::test_it_sends_nothing_more_before_it_has_verified_its_lease",
    ),
    "the worker is cut off": (
        "peering/test_killed.py::test_worker_survives_its_server",
        "peering/outbound/test_forwarder.py::test_while_it_cannot_be_read_each_peer_says_so",
    ),
    "the worker ends": (
        "peering/test_killed.py::test_a_worker_that_is_told_to_end_sends_what_it_has_and_ends_well",
        "peering/outbound/test_forwarder.py::test_it_reads_to_the_end_of_the_log_first",
    ),
    "this server is killed": (
        "durability/test_server.py::test_a_server_that_is_killed_loses_nothing_that_its_log_keeps",
        "peering/outbound/test_forwarder.py::test_another_one_may_have_lost_what_was_not_read_of_the_first",
    ),
    "this server is restarted": (
        "durability/test_server.py::test_a_server_that_is_restarted_has_its_worker_read_everything",
        "durability/test_server.py::test_a_server_that_ends_while_its_worker_is_away",
    ),
    "server and worker are killed together": (
        "durability/test_server_and_worker.py::test_server_and_worker_killed_together",
        "durability/test_random_kills.py::test_each_acknowledged_message_survives",
    ),
    "the peer is killed": (
        "peering/test_peer_killed.py::test_each_message_is_in_its_log_once_and_in_order",
        "durability/test_peer.py::test_a_peer_that_is_killed_has_each_message_once",
    ),
    "one of the peer's processes is killed": (
        "peering/test_killed_on_redis.py::test_every_process_of_a_server_knows_what_was_seen",
    ),
    "Redis is down, at the peer": (
        "durability/test_peer.py::test_a_peer_whose_redis_is_killed_has_each_message_once",
        "peering/outbound/test_link.py::test_an_error_that_may_pass_has_all_sent_again_in_order",
    ),
    "Redis is down, here": (
        "durability/test_redis.py::test_redis_is_killed_with_three_processes_on_it",
        "broker/redis/test_source_faults.py::test_a_redis_that_loses_its_end_is_read_again_from_shortly_before",
        "peering/outbound/test_link.py::test_what_a_log_that_began_again_repeats_is_not_sent_again",
    ),
    "the database is down": (
        "peering/test_worker.py::test_meanwhile_what_is_connected_goes_on",
        "durability/test_database.py::test_postgresql_is_killed",
    ),
}


def test_each_event_that_is_described_has_its_tests() -> None:
    text = section("reference/peering.md", "When something breaks")
    rows = re.findall(r"^\| (\*\*.+?) \| ", text, re.MULTILINE)
    assert len(rows) == len(BREAKS)
    for row, event in zip(rows, BREAKS, strict=True):
        assert row.replace("*", "").startswith(event)
    missing = [
        test
        for test in chain.from_iterable(BREAKS.values())
        if f"def {test.partition('::')[2]}("
        not in (ROOT / "tests" / test.partition("::")[0]).read_text()
    ]
    assert missing == []


def test_every_command_for_peers_is_named() -> None:
    parser = peers.Command().create_parser("manage.py", "peers")
    [actions] = [action for action in parser._actions if isinstance(action.choices, dict)]
    row = section("reference/peering.md", "A row")
    for command in actions.choices or ():
        assert f"`{command}`" in row, command


# docs/how-to/troubleshooting.md

CODE = re.compile(r"`([^`]+)`")
WHAT_DIFFERS = re.compile(r"%(?:\(\w+\))?[-+.\d]*[a-zA-Z]|\$\{[^}]*}")

# Those that users of the app meet, but that others raise.
OF_OTHERS = ("django.db.backends.base.base", "django.utils.asyncio", "channels.routing")


def texts_of(tree: ast.AST) -> Iterator[str]:
    """The texts in Python code, with ``…`` for what is filled in, and the names of exceptions; no docstrings."""
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if node not in docstrings:
                yield WHAT_DIFFERS.sub("…", text)
            case ast.JoinedStr(values=values):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…" for part in values
                )
            case ast.ClassDef(name=name) | ast.alias(name=name):
                yield name


def texts_that_users_meet() -> list[str]:
    modules = [path for path in CODE_THAT_CITES if "dwsps_channels" in path.parts]
    for module in OF_OTHERS:
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        modules.append(Path(spec.origin))
    texts: list[str] = []
    for path in modules:
        if path.suffix == ".py":
            texts += texts_of(ast.parse(path.read_text()))
        else:
            texts += WHAT_DIFFERS.sub("…", path.read_text()).splitlines()
    return texts


def quotes() -> list[str]:
    """The log lines, errors and names of exceptions among the symptoms: all but codes, paths and calls."""
    text = prose(ROOT / "docs" / "how-to" / "troubleshooting.md")
    symptoms = re.findall(r"^\| (.+?) \| ", text, re.MULTILINE)
    return [
        quote
        for symptom in symptoms
        for quote in CODE.findall(symptom)
        if " " in quote or re.fullmatch("([A-Z][a-z]+)+", quote)
    ]


def occurs(quote: str, texts: list[str]) -> bool:
    """Return whether one of ``texts`` has the parts of ``quote`` between its ``…``, in order, and whole where it has none."""
    pattern = re.compile(".*?".join(map(re.escape, quote.split("…"))), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def test_what_is_quoted_to_find_a_cure_is_what_the_code_says() -> None:
    texts = texts_that_users_meet()
    assert len(quotes()) > 50
    assert [quote for quote in quotes() if not occurs(quote, texts)] == []
    assert not occurs("client … closed: it was bored", texts)


# docs/how-to/deployment.md


def test_units_leave_processes_the_time_they_take_to_end() -> None:
    text = section("how-to/deployment.md", "systemd")
    times = [int(seconds) for seconds in re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)]
    assert len(times) == text.count("ExecStart=") == 2
    assert min(times) > 10 >= runtime.DRAIN_GRACE
    assert min(times) > 10 >= worker.FLUSH_GRACE + worker.SIGNALS_GRACE


def test_the_proxy_waits_longer_than_pings_are_apart() -> None:
    daphne_and_uvicorn = 20
    [timeout] = re.findall(r"proxy_read_timeout (\d+)s;", section("how-to/deployment.md", "nginx"))
    assert int(timeout) > 2 * max(daphne_and_uvicorn, Timings().LINK_HEARTBEAT_INTERVAL)
