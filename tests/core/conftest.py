import pytest

from tests.core.recording import World


@pytest.fixture
def world() -> World:
    return World()
