import pytest

from dwsps_channels.core.log import Log
from tests.core.recording import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def logged() -> World:
    """A world whose broker has a log, ``log``, to which nothing was published yet."""
    world = World()
    world.node.begin(Log("log"))
    return world
