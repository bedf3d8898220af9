import gc
from collections.abc import AsyncIterator

import pytest

from tests.bus.layers import Layer


@pytest.fixture
def layer() -> Layer:
    return Layer()


@pytest.fixture(autouse=True)
async def unclosed() -> AsyncIterator[None]:
    """Finds connections and tasks that a test left behind: their warnings come when they are collected."""
    yield
    gc.collect()
