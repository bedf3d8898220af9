"""Reading the log from any Django code, in a process that serves or in any other."""

from dwsps_channels.reading.api import acursor, ahistory, cursor, history
from dwsps_channels.reading.messages import History, HistoryMessage

__all__ = ["History", "HistoryMessage", "acursor", "ahistory", "cursor", "history"]
