import pytest
from hypothesis import HealthCheck, settings

from tests.core.recording import World

# How long an example takes, and how long Hypothesis takes to think it up, says something about the machine only.
settings.register_profile("no-timing", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-timing")


@pytest.fixture
def world() -> World:
    return World()
