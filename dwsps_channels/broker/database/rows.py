"""The form of publications in the database."""

from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from dwsps_channels.core.keys import DURABLE_KEYS
from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol import surrogates

encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(Publication)


class Row(NamedTuple):
    """A publication in its place in the log, as it is written. The fields are those of ``LogEntry``."""

    offset: int
    at: float
    root: str
    key: str
    size: int
    data: bytes


def decode(data: bytes | memoryview) -> Publication:
    """Read what ``encode`` made of a publication. What databases return for it differs.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return surrogates.decode(_decoder, bytes(data))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def digest(key: str) -> str:
    """Return what stands for a key in the database, which need not store every text; empty for none.

    That of a durable message begins as the key does.
    """
    if not key:
        return ""
    prefix = DURABLE_KEYS if key.startswith(DURABLE_KEYS) else ""
    return prefix + blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest()
