"""Publishing on a busy machine."""

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.test import override_settings


@pytest.fixture
def long_timeout() -> Iterator[None]:
    """Wait longer for the server than by default: an answer that comes may take a while."""
    with override_settings(DWSPS={**settings.DWSPS, "PUBLISH_TIMEOUT": 20.0}):
        yield
