"""A message on its way through the server, whoever it came from."""

from msgspec import Raw, Struct

from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.messages import Delivery, encode_json


class Publication(Struct, frozen=True, gc=False, omit_defaults=True):
    """A published message, as the broker carries it and the hub delivers it.

    ``origin`` and ``sequence`` are the same wherever it gets, and however often: by them it is known again.
    """

    topic: str
    message: Raw
    """The published JSON, byte for byte."""
    timestamp: str
    """RFC 3339: the publisher's, else the server's."""
    origin: str = ""
    """The run of the process that it was published in; empty for what a dwsps 1.0.1 server forwarded."""
    sequence: int = 0
    """Its number in this run, from 1 on."""
    publisher: str = ""
    """Its publisher: the server's id for the connection; empty for the server's own code. For what a peer has
    forwarded the name of that peer."""
    from_peer_server: bool = False
    """True if it came from a peer: then it is not forwarded to peers."""

    def frame(self, context: str, offset: int | None = None) -> Frame:
        """Return the frame for the subscribers to ``context``. ``offset`` is its place in the log, if there is one."""
        # As ``encode``, without the call.
        return Frame(
            encode_json(
                Delivery(
                    timestamp=self.timestamp,
                    topic=self.topic,
                    message=self.message,
                    from_peer_server=self.from_peer_server,
                    context=context,
                    offset=offset,
                )
            )
        )
