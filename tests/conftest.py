"""Fixtures for tests that need real servers; `tests/processes.py` has what they are made of."""

import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from django.db import connections
from hypothesis import HealthCheck, settings

from tests.form import FULL
from tests.processes import (
    KINDS,
    Child,
    Postgres,
    Redis,
    Server,
    ServerFactory,
    base_environment,
    manage,
    postgres_server,
    redis_server,
)

# How long an example takes, and how long Hypothesis takes to think it up, says something about the machine only.
settings.register_profile("no-timing", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-timing")

LOG_TAIL = 10_000  # characters: enough for the last traceback


# What takes longest comes first, so that at the end no process is left alone with it.
LONG_FIRST = (
    "tests/wire/test_patience.py",
    "tests/test_page.py",
    "tests/chaos",
    "tests/durable/test_killed",
    "tests/durable/test_transactions.py",
    "tests/durability",
    "tests/wire/test_limits.py",
    "tests/peering/test_mesh.py",
    "tests/connections/fastlane/test_browser.py",
    "tests/peering/test_killed.py",
    "tests/peering/test_killed_on_redis.py",
    "tests/peering/test_refusals.py",
    "tests/wire/test_storm.py",
    "tests/wire/test_lifecycle.py",
    "tests/wire/test_floods.py",
    "tests/howto",
    "tests/peering",
    "tests/wire",
    "tests/publishing",
    "tests/server",
)


# What these fixtures give is a process, or is made by one. Tests that take them get the marker `processes`.
PROCESS_FIXTURES = {
    "base",  # of tests/howto
    "certificate",
    "migrated_database",
    "node",
    "database_environment",
    "postgres",
    "program",  # of tests/test_benchmarks.py
    "redis",
    "site",
    "wheel",
    "yardstick",
}

# What a process is started with, as Python's audit events have it.
STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "full_form: left out by `make test`, not by `make test-full`"
    )
    config.addinivalue_line("markers", "processes: starts processes; left out by `make test-fast`")
    sys.addaudithook(forbid_processes)
    heed_signals()


def heed_signals() -> None:
    """Have the processes that tests start end at Ctrl-C and at a closed terminal.

    `nohup` and a shell's `&` have a process ignore these signals, and its children inherit that. They do not inherit a
    handler that does nothing.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


running: list[pytest.Item] = []


def forbid_processes(event: str, arguments: tuple[object, ...]) -> None:
    """Keep the tests of `make test-fast` from starting a process: one takes longer than a hundred of them."""
    if event in STARTS and running and running[0].get_closest_marker("processes") is None:
        raise AssertionError(
            "a test without the marker `processes` starts a process: take one of the fixtures in "
            "tests/conftest.py, or mark it with @pytest.mark.processes"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    running[:] = [item]
    try:
        return (yield)
    finally:
        running.clear()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not FULL:
        left_out = [item for item in items if item.get_closest_marker("full_form")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if PROCESS_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("processes")

    def place(item: pytest.Item) -> int:
        matching = (i for i, path in enumerate(LONG_FIRST) if item.nodeid.startswith(path))
        return next(matching, len(LONG_FIRST))

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for child in Child.known:
            report.sections.append((f"log of {child.name}", child.log[-LOG_TAIL:]))
    return report


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The tests' own database in a file. In memory, threads share one cache: there a query fails at once while another thread writes, and in a file it waits."""
    connection = connections["default"]
    connection.settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("tests") / "db.sqlite3")


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with every table and no rows, to be copied: see ``database``."""
    database = tmp_path_factory.mktemp("database") / "migrated.sqlite3"
    manage("migrate", "--verbosity", "0", env=base_environment(database))
    return database


@pytest.fixture
def database(migrated_database: Path, tmp_path: Path) -> Path:
    """A copy of it for a test that writes."""
    return Path(shutil.copy(migrated_database, tmp_path / "own.sqlite3"))


@pytest.fixture(scope="module", params=KINDS)
def server_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of server in turn, for tests that start their own."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def server(
    server_kind: str, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running server with the default settings, one a module and kind. Leave it as you found it."""
    folder = tmp_path_factory.mktemp("server")
    with Server.all_closed() as servers:
        yield server_factory(servers, folder, migrated_database)(server_kind)


@pytest.fixture
def start_server(migrated_database: Path, tmp_path: Path) -> Iterator[ServerFactory]:
    """Call it with a kind and what is to be special, to get a running server; ended after the test."""
    with Server.all_closed() as servers:
        yield server_factory(servers, tmp_path, migrated_database)


@pytest.fixture(scope="module")
def start_shared_server(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerFactory]:
    """The same for servers that the tests of a module share; ended after the last of them."""
    folder = tmp_path_factory.mktemp("shared")
    with Server.all_closed() as servers:
        yield server_factory(servers, folder, migrated_database)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A running redis-server of the test's own."""
    with Redis.all_closed() as servers:
        servers.append(redis_server(tmp_path))
        yield servers[0].start()


@pytest.fixture(scope="session")
def migrated_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running PostgreSQL whose database has every table and no rows, to be copied: see ``postgres``."""
    with Postgres.all_closed() as servers:
        server = postgres_server(tmp_path_factory.mktemp("postgres"))
        servers.append(server)
        server.start()
        environment = base_environment(Path()) | {"DATABASE_URL": server.url}
        manage("migrate", "--verbosity", "0", env=environment)
        yield server


@pytest.fixture(scope="module")
def postgres(migrated_postgres: Postgres) -> Iterator[Postgres]:
    """A running PostgreSQL with a database of the module's own, with every table. Other modules use the same server."""
    with migrated_postgres.copied_database():
        yield migrated_postgres


@pytest.fixture(params=["sqlite", "postgres"])
def database_environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of processes that share a database with every table: SQLite, then PostgreSQL."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        return base_environment(Path()) | {"DATABASE_URL": server.url}
    return base_environment(request.getfixturevalue("database"))


def server_factory(servers: list[Server], folder: Path, migrated: Path) -> ServerFactory:
    database = Path(shutil.copy(migrated, folder / "db.sqlite3"))
    return ServerFactory(servers, folder=folder, database=database)
