"""The rules of docs/explanation/architecture.md, "Rooms", on who may import whom, checked on every import of the package."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "dwsps_channels"
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Rule:
    """The imports that one room may have. A name allows, or forbids, everything below it too.

    A room inside another follows its own rule, not the outer one.
    """

    room: str
    ours: tuple[str, ...]
    """Of the package: these and itself, nothing else."""
    others: tuple[str, ...] | None = None
    """Of other people's packages: these and the standard library; ``None``: any."""
    never: tuple[str, ...] = ()


# Modules that wait, use the network or start threads; and import by name, which this test cannot see through.
IO = (
    "_socket",
    "_thread",
    "asyncio",
    "concurrent",
    "http.client",
    "http.server",
    "importlib",
    "multiprocessing",
    "select",
    "selectors",
    "signal",
    "socket",
    "socketserver",
    "ssl",
    "subprocess",
    "threading",
    "urllib.request",
)
DJANGO = ("channels", "django")
# A number that a room may tell others.
VERSION = f"{PACKAGE}.__version__"


def room(name: str) -> str:
    return f"{PACKAGE}.{name}"


PROTOCOL = room("protocol")
CORE = room("core")
LOGS = room("logs")
PURE = (PROTOCOL, CORE, LOGS)
CLIENT = room("client")
CONF = room("conf")
THREADS = room("threads")
MODELS = room("models")
WEBSOCKET = room("connections.websocket")
TRANSPORTS = room("connections.transports")
FASTLANE = room("connections.fastlane")
SERVERS = room("connections.servers")
OUTBOUND = room("peering.outbound")
INBOUND = room("peering.inbound")
CAPTURING = room("capturing")
LAZY = room("lazy")

RULES = [
    # Pure: no I/O, nobody else's packages.
    Rule(PROTOCOL, ours=(), others=("msgspec",), never=IO),
    Rule(CORE, ours=(PROTOCOL,), others=("msgspec",), never=IO),
    Rule(LOGS, ours=(), others=(), never=IO),
    Rule(WEBSOCKET, ours=(PROTOCOL,), others=("websockets",), never=IO),
    # Without Django.
    Rule(CLIENT, ours=(*PURE, VERSION), never=DJANGO),
    # The same for every kind of server, and knows none.
    Rule(TRANSPORTS, ours=PURE, others=()),
    Rule(FASTLANE, ours=(*PURE, VERSION, WEBSOCKET, TRANSPORTS), never=DJANGO),
    Rule(OUTBOUND, ours=(*PURE, VERSION, CLIENT), never=DJANGO),
    # With Django, and each other only from above.
    # What it makes of the database is a room with more rights.
    Rule(room("broker"), ours=(*PURE, VERSION, CONF, CAPTURING, MODELS)),
    Rule(room("broker.database"), ours=(*PURE, MODELS, THREADS, room("broker.sending"))),
    Rule(room("connections"), ours=(*PURE, VERSION, LAZY)),
    Rule(SERVERS, ours=(*PURE, TRANSPORTS)),
    Rule(CAPTURING, ours=()),
    Rule(LAZY, ours=()),
    Rule(CONF, ours=PURE),
    Rule(THREADS, ours=(CONF, CAPTURING)),
    Rule(MODELS, ours=(*PURE, room("client.address"))),
    Rule(
        room("peering"),
        ours=(
            *PURE,
            VERSION,
            CLIENT,
            CONF,
            MODELS,
            THREADS,
            room("broker"),
            room("connections.addresses"),
            room("signals"),
        ),
    ),
    Rule(INBOUND, ours=(*PURE, MODELS, THREADS, room("connections.addresses"))),
    Rule(room("tokens"), ours=(*PURE, CONF, THREADS)),
    Rule(
        room("admin"),
        ours=(
            *PURE,
            CONF,
            MODELS,
            room("peering"),
            room("durable"),
            room("rules"),
            room("publishing.notifying"),
        ),
    ),
    Rule(room("rules"), ours=(*PURE, CONF, LAZY, MODELS, THREADS)),
    Rule(room("policies"), ours=(*PURE, THREADS, room("rules"))),
    Rule(room("grants"), ours=(*PURE, CONF, LAZY, THREADS)),
    Rule(
        room("server"),
        ours=(
            *PURE,
            VERSION,
            CONF,
            MODELS,
            THREADS,
            CAPTURING,
            LAZY,
            room("broker"),
            room("connections"),
            room("fastlane"),
            room("grants"),
            room("peering"),
            room("policies"),
            room("signals"),
            room("tokens"),
        ),
    ),
    Rule(room("exceptions"), ours=(PROTOCOL,), never=DJANGO),
    Rule(
        room("remote"),
        ours=(
            *PURE,
            room("exceptions"),
            THREADS,
            CLIENT,
            room("broker"),
            room("peering.inbound.worker_credentials"),
        ),
    ),
    Rule(
        room("reading"),
        ours=(
            *PURE,
            room("exceptions"),
            CONF,
            THREADS,
            CAPTURING,
            CLIENT,
            room("broker"),
            room("server"),
            room("remote"),
            room("peering.inbound.worker_credentials"),
        ),
    ),
    Rule(room("middleware"), ours=(room("reading"),)),
    Rule(
        room("durable"),
        ours=(
            *PURE,
            room("exceptions"),
            CONF,
            MODELS,
            room("remote"),
            room("publishing"),
            room("peering.lease"),
        ),
    ),
    Rule(
        room("publishing"),
        ours=(
            *PURE,
            room("exceptions"),
            CONF,
            MODELS,
            THREADS,
            CAPTURING,
            CLIENT,
            room("broker"),
            room("server"),
            room("remote"),
            room("peering.inbound.worker_credentials"),
        ),
    ),
    Rule(room("access"), ours=(*PURE, room("exceptions"), CONF, MODELS, room("publishing"))),
]

# Packages that may import everything.
FREE = ("management", "management.commands", "migrations", "templatetags", "checks")


@dataclass(frozen=True)
class Import:
    """``name`` is absolute; of ``from a import b`` it is ``a.b``, whether ``b`` is a module or not."""

    name: str
    line: int


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import in ``source``: at the top, in functions, for type checkers only, and by a name in quotes."""
    here = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (Import(each.name, node.lineno) for each in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                if level:
                    above = here.split(".")[: len(here.split(".")) - level + 1]
                    base = ".".join([*above, base] if base else above)
                yield from (Import(f"{base}.{each.name}", node.lineno) for each in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                called = (
                    function.attr
                    if isinstance(function, ast.Attribute)
                    else getattr(function, "id", "")
                )
                if called in ("__import__", "import_module", "import_string"):
                    yield Import(name, node.lineno)


def is_in(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def is_allowed(name: str, rule: Rule) -> bool:
    if is_in(name, rule.never):
        return False
    if is_in(name, (PACKAGE,)):
        return is_in(name, (rule.room, *rule.ours))
    top = name.partition(".")[0]
    return rule.others is None or top in sys.stdlib_module_names or is_in(name, rule.others)


def rule_of(module: str) -> Rule | None:
    """The rule of the innermost room that ``module`` is in."""
    around = [rule for rule in RULES if is_in(module, (rule.room,))]
    return max(around, key=lambda rule: len(rule.room), default=None)


def breaches(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """The imports of ``module`` that the rule of its room forbids."""
    rule = rule_of(module)
    return [
        f"{module}:{each.line} imports {each.name}"
        for each in imports(source, module, is_package=is_package)
        if rule is not None and not is_allowed(each.name, rule)
    ]


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_no_module_breaks_the_rules() -> None:
    found = dict(modules())
    assert CORE + ".session" in found

    assert [
        breach
        for module, path in found.items()
        for breach in breaches(path.read_text(), module, is_package=path.name == "__init__.py")
    ] == []


def test_every_package_has_a_rule() -> None:
    without_rule = {
        module
        for module, path in modules()
        if path.name == "__init__.py" and module != PACKAGE and rule_of(module) is None
    }

    assert without_rule == {f"{PACKAGE}.{name}" for name in FREE}


def package_of(module: str, packages: set[str]) -> str:
    """The package that ``module`` is in. A module beside the rooms stands for itself."""
    inside = module if module in packages else module.rpartition(".")[0]
    return module if inside == PACKAGE else inside


def outermost(module: str, packages: set[str]) -> str:
    return ".".join(module.split(".")[:2])


def itself(module: str, packages: set[str]) -> str:
    return module


Grouping = Callable[[str, set[str]], str]


def circles(sources: Mapping[str, tuple[str, bool]], group: Grouping) -> list[list[str]]:
    """The groups that import each other, directly or around a corner. ``sources``: module to (source, is it a package).

    Imports in functions count: a circle that is only late is a circle.
    """
    packages = {module for module, (_, is_package) in sources.items() if is_package}
    graph: dict[str, set[str]] = {}
    for module, (source, is_package) in sources.items():
        if module == PACKAGE:
            continue  # it gives the version to all, and takes ``publish`` from above
        here = group(module, packages)
        reached = graph.setdefault(here, set())
        for each in imports(source, module, is_package=is_package):
            target = each.name if each.name in sources else each.name.rpartition(".")[0]
            if target in sources and target != PACKAGE and group(target, packages) != here:
                reached.add(group(target, packages))
    return [sorted(circle) for circle in strongly_connected(graph) if len(circle) > 1]


def strongly_connected(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of nodes that reach each other."""
    reach = {node: reachable(graph, node) for node in graph}
    found: list[set[str]] = []
    for node in graph:
        if not any(node in circle for circle in found):
            found.append({node, *(other for other in reach[node] if node in reach.get(other, ()))})
    return found


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for each in graph.get(waiting.pop(), ()):
            if each not in found:
                found.add(each)
                waiting.append(each)
    return found


@pytest.mark.parametrize("group", [itself, package_of, outermost])
def test_no_circle_of_imports(group: Grouping) -> None:
    sources = {module: (path.read_text(), path.name == "__init__.py") for module, path in modules()}

    assert circles(sources, group) == []


def test_a_circle_is_found() -> None:
    sources = {
        f"{PACKAGE}.a": ("", True),
        f"{PACKAGE}.a.one": ("from dwsps_channels.b.one import x", False),
        f"{PACKAGE}.b": ("", True),
        f"{PACKAGE}.b.one": ("def late():\n    from dwsps_channels import c", False),
        f"{PACKAGE}.b.two": ("", False),
        f"{PACKAGE}.c": ("from dwsps_channels.a.two import y", False),
        f"{PACKAGE}.a.two": ("", False),
    }

    assert circles(sources, itself) == []
    assert circles(sources, package_of) == [[f"{PACKAGE}.{name}" for name in "abc"]]
    assert circles(sources, outermost) == [[f"{PACKAGE}.{name}" for name in "abc"]]


# What the rules say is true of what is really loaded, too: the package's own __init__ included.
@pytest.mark.parametrize(
    ("name", "unwanted"),
    [
        (PROTOCOL, ("asyncio", "socket", *DJANGO)),
        (CORE, ("asyncio", "socket", *DJANGO)),
        (CLIENT, DJANGO),
        (WEBSOCKET, DJANGO),
        (room("fastlane"), DJANGO),
        (FASTLANE, DJANGO),
        (OUTBOUND, DJANGO),
    ],
)
@pytest.mark.processes
def test_to_import_a_room_loads_nothing_that_it_must_not(
    name: str, unwanted: tuple[str, ...]
) -> None:
    names = [module for module, _ in modules() if is_in(module, (name,))]
    program = f"import sys, {', '.join(names or ['sys'])}\nprint(*sys.modules, sep='\\n')"

    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert set(ran.stdout.split()).isdisjoint(unwanted)


# The walker itself.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.hub", "import django"),
        ("core.hub", "from django.db import models"),
        ("core.hub", "import asyncio"),
        ("core.hub", "import asyncio.events as events"),
        ("core.hub", "from asyncio import Future"),
        ("core.hub", "import os, socket"),
        ("core.hub", "from threading import Lock"),
        ("core.hub", "from concurrent.futures import Future"),
        ("core.hub", "import orjson"),
        ("core.hub", "from importlib import import_module"),
        ("core.hub", "__import__('asyncio')"),
        ("core.hub", "def late():\n    import asyncio"),
        ("core.hub", "class Late:\n    async def late(self):\n        from django import db"),
        (
            "core.hub",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from asyncio import Future",
        ),
        ("core.hub", "try:\n    import uvloop\nexcept ImportError:\n    pass"),
        ("core.hub", "from dwsps_channels import conf"),
        ("core.hub", "from dwsps_channels import __version__"),
        ("core.hub", "from dwsps_channels import *"),
        ("core.hub", "import dwsps_channels"),
        ("core.hub", "from dwsps_channels.corella import x"),
        ("core.hub", "from ..broker import memory"),
        ("core.hub", "from .. import broker"),
        ("core.deep.down", "from ...broker.memory import MemoryBroker"),
        ("broker.memory", "from dwsps_channels.peering import worker"),
        ("broker.memory", "from dwsps_channels.server.runtime import obtain"),
        ("broker.memory", "from ..client import client"),
        ("peering.outbound.window", "from dwsps_channels.fastlane import protocol"),
        ("peering.outbound.window", "import dwsps_channels.broker.memory"),
        ("peering.outbound.link", "from django.db import models"),
        ("peering.outbound.forwarder", "from channels.db import database_sync_to_async"),
        ("peering.outbound.server_feed", "from dwsps_channels.models import Peer"),
        ("peering.store", "from dwsps_channels.server.runtime import obtain"),
        ("client.blocking", "from django.conf import settings"),
        ("client.blocking", "from dwsps_channels.peering import link"),
        (
            "connections.fastlane.protocol",
            "from dwsps_channels.connections.servers.daphne import DaphneTransport",
        ),
        ("connections.transports.asgi", "from dwsps_channels import consumers"),
        ("connections.servers.daphne", "from dwsps_channels.fastlane import protocol"),
        (
            "connections.fastlane.protocol",
            "def late():\n    from channels.consumer import AsyncConsumer",
        ),
        (
            "connections.fastlane.protocol",
            "import importlib\nimportlib.import_module('dwsps_channels.consumers')",
        ),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert len(breaches(source, f"{PACKAGE}.{module}")) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "core.hub",
            "import logging\nfrom collections.abc import Awaitable\nfrom time import monotonic",
        ),
        ("core.hub", "import msgspec\nfrom msgspec.json import Decoder"),
        (
            "core.hub",
            "from dwsps_channels.protocol.frames import Frame\nfrom dwsps_channels.core import topics",
        ),
        ("core.hub", "from . import frames\nfrom .frames import Frame\nfrom ..core import topics"),
        ("core.hub", "'import asyncio'  # import django"),
        (
            "broker.channel_layer.broker",
            "import asyncio\nfrom channels.layers import get_channel_layer\nfrom ..core import hub",
        ),
        ("broker.channel_layer.broker", "from dwsps_channels.core.broker import Broker"),
        (
            "peering.store",
            "from django.db import models\nfrom dwsps_channels.models import Peer",
        ),
        (
            "peering.outbound.link",
            "import asyncio\nfrom dwsps_channels.peering.outbound.window import Window",
        ),
        ("client.client", "import asyncio, websockets\nfrom dwsps_channels import __version__"),
        (
            "connections.fastlane.protocol",
            "import uvicorn\nfrom dwsps_channels.connections.transports.send_buffer import SendBuffer",
        ),
        ("consumers", "import asyncio, django\nfrom dwsps_channels import broker, core, peering"),
        ("corella", "import asyncio"),
    ],
)
def test_what_is_allowed_is_no_breach(module: str, source: str) -> None:
    assert breaches(source, f"{PACKAGE}.{module}") == []


def test_in_a_package_one_dot_is_the_package_itself() -> None:
    assert breaches("from .hub import Hub", CORE, is_package=True) == []
    assert len(breaches("from .broker import local", PACKAGE + ".core", is_package=False)) == 1
    assert len(breaches("from ..broker import local", CORE, is_package=True)) == 1


def test_a_breach_tells_where_it_is() -> None:
    assert breaches("\n\nimport asyncio", f"{CORE}.hub") == [f"{CORE}.hub:3 imports asyncio"]
