"""The form of tokens, by which a server tells them from the secrets of peers."""

import re
from binascii import Error, a2b_base64
from typing import Final

import msgspec

from dwsps_channels.protocol.messages import MAX_TOKEN

PREFIX: Final = "dwspst_"
"""The beginning of a token that ``make_token`` made."""

# Visible ASCII: what an Authorization header can carry. No database and no library trips over it.
_CHARACTERS: Final = re.compile(r"[\x21-\x7e]+")

# The parts of a signed JSON Web Token (RFC 7515, section 3.1), and of an encrypted one (RFC 7516, section 3.1).
_JWT_PARTS: Final = (3, 5)
_MAX_JWT_HEADER: Final = 2048


def is_well_formed(token: str) -> bool:
    """Return whether ``token`` is 1 to ``MAX_TOKEN`` visible ASCII characters."""
    return len(token) <= MAX_TOKEN and _CHARACTERS.fullmatch(token) is not None


def is_signed(token: str) -> bool:
    """Return whether ``token`` has the form of one that is signed: ours, or a JSON Web Token. It is no peer's secret then.

    Nobody can guess such a token, so a false one costs its sender nothing.
    """
    return token.startswith(PREFIX) or _is_jwt(token)


def _is_jwt(token: str) -> bool:
    header, _, rest = token.partition(".")
    if rest.count(".") + 2 not in _JWT_PARTS or len(header) > _MAX_JWT_HEADER:
        return False
    padded = header.translate(_URL_SAFE) + "=" * (-len(header) % 4)
    try:
        stated = msgspec.json.decode(a2b_base64(padded))
    except (Error, ValueError, RecursionError):
        return False
    return isinstance(stated, dict) and "alg" in stated


_URL_SAFE: Final = str.maketrans("-_", "+/")
