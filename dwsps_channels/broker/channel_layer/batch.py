"""A message on a channel layer: the next publications of one process, with their numbers."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol import surrogates

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(list[Publication])
_decoder_of_one = msgspec.json.Decoder(Publication)

# What tells where an element of an array ends: strings, as they may hold anything, brackets, commas.
_SIGN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)


Numbers = tuple[int, int]
"""The first number of some consecutive publications, and the one after the last."""


class Batch(Struct, frozen=True):
    """Consecutive publications of one process. An empty one is a heartbeat: it tells how far its sender is."""

    sender: str
    """Names one start of one process: never used again."""
    first: int
    """The number of the first: the sender counts from 0."""
    publications: Sequence[Publication | None]
    """``None`` stands for one that cannot be read: it has a number, too."""
    problem: str = ""
    """The reason why some cannot be read."""
    heard: dict[str, Numbers] = {}
    """Of a heartbeat: what its sender has heard of senders that are no processes of the server."""

    def message(self) -> dict[str, Any]:
        """Return it as a channel layer's message: plain text and integers, which every serializer takes."""
        batch = _encode(self.publications).decode()
        envelope = _Envelope(self.sender, self.first, batch, self.heard)
        message: dict[str, Any] = msgspec.to_builtins(envelope)
        return message

    @classmethod
    def from_message(cls, message: object) -> "Batch":
        """Decode what ``message`` returned.

        Raises:
            ValueError: it is no batch; its text says why.
        """
        try:
            envelope = msgspec.convert(message, _Envelope)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None
        sender, first, batch = envelope.sender, envelope.first, envelope.batch
        try:
            readable = surrogates.decode(_decoder, batch)
            return cls(sender, first, readable, heard=envelope.heard)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            # One that cannot be read is not to cost the others.
            publications = [_publication(element) for element in _elements(batch)]
            if not any(publications):
                raise ValueError(str(error)) from None
            return cls(sender, first, publications, str(error), envelope.heard)


# The publications are JSON within the message, because JSON keeps each payload byte for byte (msgspec.Raw), and
# because a layer may copy or pack a message value by value: one text is cheap, a thousand dicts are not.
class _Envelope(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="dwsps.broker"):
    sender: str
    first: Annotated[int, Meta(ge=0)]
    batch: str
    heard: dict[str, Numbers] = {}


def _publication(text: str) -> Publication | None:
    try:
        return surrogates.decode(_decoder_of_one, text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _elements(array: str) -> Iterator[str]:
    """Yield the elements of a JSON array, whatever is in them; none, if it is no array."""
    level = start = 0
    for match in _SIGN.finditer(array):
        sign = match[0]
        if sign in ("[", "{"):
            level += 1
            start = start or match.end()
        elif level == 1 and sign in (",", "]"):
            yield array[start : match.start()]
            start = match.end()
        if sign in ("]", "}"):
            level -= 1
