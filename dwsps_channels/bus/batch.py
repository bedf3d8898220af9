"""What crosses a channel layer: the next publications of one process, with their numbers."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from dwsps_channels.core.publication import Publication

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Publication]).decode


class Batch(Struct, frozen=True):
    """Consecutive publications of one process. An empty one is a heartbeat: it tells how far its sender is."""

    sender: str
    """Names one start of one process: never used again."""
    first: int
    """How many publications the sender numbered before these."""
    publications: list[Publication]

    def message(self) -> dict[str, Any]:
        """The same as a channel layer's message: plain text and integers, which every serializer takes."""
        envelope = _Envelope(self.sender, self.first, _encode(self.publications).decode())
        message: dict[str, Any] = msgspec.to_builtins(envelope)
        return message

    @classmethod
    def from_message(cls, message: object) -> "Batch":
        """Undo ``message``.

        Raises:
            ValueError: it is no batch; its text says why.
        """
        try:
            envelope = msgspec.convert(message, _Envelope)
            return cls(envelope.sender, envelope.first, _decode(envelope.batch))
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(str(error)) from None


# The publications are JSON within the message, because JSON keeps each payload byte for byte (msgspec.Raw), and
# because a layer may copy or pack a message value by value: one text is cheap, a thousand dicts are not.
class _Envelope(Struct, frozen=True, tag_field="type", tag="dwsps.bus"):
    sender: str
    first: Annotated[int, Meta(ge=0)]
    batch: str
