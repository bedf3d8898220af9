"""Fixtures of the chaos tests."""

from collections.abc import Iterator

import pytest

from tests.processes import Child


@pytest.fixture
def children() -> Iterator[list[Child]]:
    with Child.all_closed() as children:
        yield children
