"""The urgency of what an operator is shown."""

from enum import StrEnum


class Severity(StrEnum):
    """The urgency of a status, for its colour."""

    OK = "ok"
    PENDING = "pending"
    """It may get well by itself."""
    WARNING = "warning"
    ERROR = "error"
    OFF = "off"
    """Nothing is to happen."""
