"""Who may import whom: docs/explanation/architecture.md, kept by reading every import of the package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "dwsps_channels"
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Rule:
    """What one room may import. A name allows, or forbids, all below it too."""

    room: str
    ours: tuple[str, ...]
    """Of the package: these and itself, nothing else."""
    others: tuple[str, ...] | None = None
    """Of other people's packages: these and the standard library; ``None``: any."""
    never: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    """Modules of the room that have a rule of their own."""


# Who waits, talks to the network or starts threads; and import by name, which this test cannot see through.
IO = (
    "_socket",
    "_thread",
    "asyncio",
    "concurrent",
    "http",
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
CORE = f"{PACKAGE}.core"
# A number that a room may tell others.
VERSION = f"{PACKAGE}.__version__"
PEERING = f"{PACKAGE}.peering"
STORE = f"{PEERING}.store"
OUTBOX = tuple(f"{PACKAGE}.transports.{part}" for part in ("outbox", "flusher", "lag", "unsent"))

RULES = [
    Rule(CORE, ours=(), others=("msgspec",), never=IO),
    Rule(f"{PACKAGE}.bus", ours=(CORE, VERSION)),
    Rule(f"{PACKAGE}.client", ours=(CORE, VERSION), never=DJANGO),
    # What writes on a connection itself is both doors', and knows neither.
    *(Rule(room, ours=(CORE, *OUTBOX), never=DJANGO) for room in OUTBOX),
    Rule(f"{PACKAGE}.transports", ours=(CORE,)),
    Rule(f"{PACKAGE}.fastlane", ours=(CORE, VERSION, *OUTBOX), never=DJANGO),
    Rule(PEERING, ours=(CORE, VERSION, f"{PACKAGE}.client"), never=DJANGO, but=(STORE,)),
    # Its one door to the database.
    Rule(STORE, ours=(CORE, VERSION, PEERING, f"{PACKAGE}.models")),
]


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


def breaches(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What ``module`` imports although a rule of a room that it is in forbids it."""
    return [
        f"{module}:{each.line} imports {each.name}"
        for rule in RULES
        if is_in(module, (rule.room,)) and not is_in(module, rule.but)
        for each in imports(source, module, is_package=is_package)
        if not is_allowed(each.name, rule)
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


# What the rules say is true of what is really loaded, too: the package's own __init__ included.
@pytest.mark.parametrize(
    ("room", "unwanted"),
    [
        (CORE, ("asyncio", "socket", *DJANGO)),
        (f"{PACKAGE}.client", DJANGO),
        (f"{PACKAGE}.fastlane", DJANGO),
    ],
)
def test_to_import_a_room_loads_nothing_that_it_must_not(
    room: str, unwanted: tuple[str, ...]
) -> None:
    names = [module for module, _ in modules() if is_in(module, (room,))]
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
        ("core.hub", "from ..bus import contract"),
        ("core.hub", "from .. import bus"),
        ("core.deep.down", "from ...bus.local import LocalBus"),
        ("bus.local", "from dwsps_channels.peering import outbox"),
        ("bus.local", "from dwsps_channels.runtime import obtain"),
        ("bus.local", "from ..client import client"),
        ("peering.outbox", "from dwsps_channels.fastlane import protocol"),
        ("peering.outbox", "import dwsps_channels.bus.local"),
        ("peering.link", "from django.db import models"),
        ("peering.forwarder", "from channels.db import database_sync_to_async"),
        ("peering.tap", "from dwsps_channels.models import Peer"),
        ("peering.store", "from dwsps_channels.runtime import obtain"),
        ("client.blocking", "from django.conf import settings"),
        ("client.blocking", "from dwsps_channels.peering import link"),
        ("fastlane.protocol", "from dwsps_channels.transports.daphne import DaphneTransport"),
        ("transports.asgi", "from dwsps_channels import consumers"),
        ("transports.daphne", "from dwsps_channels.fastlane import protocol"),
        ("fastlane.protocol", "def late():\n    from channels.consumer import AsyncConsumer"),
        (
            "fastlane.protocol",
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
            "from dwsps_channels.core.frames import Frame\nfrom dwsps_channels.core import topics",
        ),
        ("core.hub", "from . import frames\nfrom .frames import Frame\nfrom ..core import topics"),
        ("core.hub", "'import asyncio'  # import django"),
        (
            "bus.channel_layer",
            "import asyncio\nfrom channels.layers import get_channel_layer\nfrom ..core import hub",
        ),
        ("bus.channel_layer", "from dwsps_channels.bus.contract import Bus"),
        (
            "peering.store",
            "from django.db import models\nfrom dwsps_channels.models import Peer",
        ),
        ("peering.link", "import asyncio\nfrom dwsps_channels.peering.outbox import Outbox"),
        ("client.client", "import asyncio, websockets\nfrom dwsps_channels import __version__"),
        (
            "fastlane.protocol",
            "import uvicorn\nfrom dwsps_channels.transports.outbox import Outbox",
        ),
        ("runtime", "import asyncio, django\nfrom dwsps_channels import bus, core, peering"),
        ("corella", "import asyncio"),
    ],
)
def test_what_is_allowed_is_no_breach(module: str, source: str) -> None:
    assert breaches(source, f"{PACKAGE}.{module}") == []


def test_in_a_package_one_dot_is_the_package_itself() -> None:
    assert breaches("from .hub import Hub", CORE, is_package=True) == []
    assert len(breaches("from .bus import local", PACKAGE + ".core", is_package=False)) == 1
    assert len(breaches("from ..bus import local", CORE, is_package=True)) == 1


def test_a_breach_tells_where_it_is() -> None:
    assert breaches("\n\nimport asyncio", f"{CORE}.hub") == [f"{CORE}.hub:3 imports asyncio"]
