"""Sites: servers with databases, workers and peers of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.peering.site import Site, sites

MakeSites = Callable[..., list[Site]]


@pytest.fixture(scope="module")
def make_shared_sites(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeSites]:
    """As ``make_sites``, but their processes end with the module. A test removes the peers that it has added."""
    folder = tmp_path_factory.mktemp("sites")
    with ExitStack() as stack:
        yield lambda *names, **options: stack.enter_context(
            sites(folder, migrated_database, *names, **options)
        )


@pytest.fixture
def make_sites(migrated_database: Path, tmp_path: Path) -> Iterator[MakeSites]:
    """Call it with names, and `timings` if need be, to get as many sites; their processes end with the test."""
    with ExitStack() as stack:
        yield lambda *names, **options: stack.enter_context(
            sites(tmp_path, migrated_database, *names, **options)
        )
