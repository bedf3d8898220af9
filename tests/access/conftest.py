"""Fixtures for the tests of access."""

from collections.abc import Iterator

import pytest

from dwsps_channels.publishing import notifying
from dwsps_channels.publishing.notifying import lost_notices, resender
from tests.access.recording import RecordingNotifier


@pytest.fixture
def notifier(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingNotifier]:
    """In place of the server: what was to be sent to its processes."""
    found = RecordingNotifier()
    monkeypatch.setattr(notifying, "choose_publisher", lambda *args: found)
    lost_notices.forget()
    yield found
    lost_notices.forget()
    resender.forget()
