"""The log of a server, read through its websocket."""

from typing import Final

from dwsps_channels.client.messages import Incoming, InvalidFrame, to_json
from dwsps_channels.peering.inbound.worker_credentials import Purpose
from dwsps_channels.protocol.messages import MAX_INTEGER_ID
from dwsps_channels.reading.messages import History, HistoryQuery, from_deliveries
from dwsps_channels.remote.websocket import WebSocketRequests

# Any topic will do to ask for the cursor alone.
_ANY_TOPIC: Final = "dwsps"


class WebSocketLog(WebSocketRequests):
    """Reads over a websocket: see ``LogConnection``."""

    purpose = Purpose.READ

    def cursor(self, deadline: float) -> str:
        """See ``LogConnection.cursor``."""
        return _cursor(self.request("history", _ANY_TOPIC, b',"last":0', deadline).ack)

    def read(self, query: HistoryQuery, deadline: float) -> History | None:
        """See ``LogConnection.read``."""
        fields = b""
        if query.last is not None:
            fields = b',"last":%d' % min(query.last, MAX_INTEGER_ID)
        elif query.since is not None:
            fields = b',"since":%s' % to_json(query.since)
        ack, deliveries = self.request("history", query.topic, fields, deadline)
        cursor = _cursor(ack)
        if not cursor:
            return None
        try:
            messages = from_deliveries(deliveries)
        except InvalidFrame as error:
            raise ConnectionError(str(error)) from error
        return History(messages, cursor, recovered=ack.recovered is not False)


def _cursor(ack: Incoming) -> str:
    return ack.cursor if isinstance(ack.cursor, str) else ""
