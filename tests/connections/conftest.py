"""Time for clients, in this process."""

import pytest

from dwsps_channels.connections.transports import backpressure, closing


@pytest.fixture(autouse=True)
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client is cut off, or reads too little, because the machine stood still. A test that waits for that shortens a time."""
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 60.0)
    monkeypatch.setattr(closing, "SLOW_CLOSE_TIMEOUT", 60.0)
    monkeypatch.setattr(backpressure, "PROGRESS_INTERVAL", 60.0)
