"""The depth to which JSON is nested, found without decoding it: every decoder on its way has to be able to."""

from array import array
from itertools import accumulate
from typing import Final

# The setting's upper bound. A message is read two levels deeper on the broker, and Python's own decoder, which uses a
# thousand levels of the stack at most, is to have room for its caller's.
MAX_DEPTH: Final = 512

_NO_SIGNS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
# One level down, or one up: -1 as a signed byte.
_STEPS: Final = bytes.maketrans(b"[]", b"\x01\xff")


def is_deeper(json: str | bytes, levels: int) -> bool:
    """Tell whether arrays and objects lie more than ``levels`` deep within each other. What is no JSON may be either.

    >>> is_deeper('[{"a": "[[["}]', 2), is_deeper("[[[]]]", 2)
    (False, True)
    """
    data = json.encode("utf-8", "replace") if isinstance(json, str) else json
    if data.count(b"[") + data.count(b"{") <= levels:
        return False
    if b"\\" in data:
        data = data.replace(rb"\\", b"").replace(rb"\"", b"")  # quotes that end no string
    signs = data.translate(_SQUARE, _NO_SIGNS)
    # Two quotes in a row change nothing for what comes after them. Of the rest every second part is a string's.
    brackets = b"".join(signs.replace(b'""', b"").split(b'"')[::2])
    # Fewer have no room for so many levels.
    while len(brackets) > 2 * levels:
        if not levels:
            return True
        # What is wide goes in a few steps: each takes the innermost of all levels off.
        outer = brackets.replace(b"[]", b"")
        if len(outer) > len(brackets) - len(brackets) // 4:
            return max(accumulate(array("b", brackets.translate(_STEPS)))) > levels
        brackets, levels = outer, levels - 1
    return False
