r"""Halves of characters in JSON: ``"\ud800"`` is JSON by its grammar, and ``JSON.stringify`` writes it.

It is no Unicode, so msgspec refuses it, in values that it keeps raw as well. What it has refused is read here once more
with those escapes masked, and they are put back into what was read.
"""

import re
from secrets import token_hex
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

T = TypeVar("T")

_HIGH: Final = "[dD][89abAB][0-9a-fA-F]{2}"
_LOW: Final = "[dD][c-fC-F][0-9a-fA-F]{2}"
# What is left as it is, escaped backslashes and pairs; or else the "\u" of a lone one.
_ESCAPE: Final = re.compile(rf"((?:\\\\)+|\\u{_HIGH}\\u{_LOW})|\\u(?={_HIGH}|{_LOW})")

_ANY: Final = re.compile("[\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Tell whether ``text`` can be encoded: it has no surrogates."""
    return _ANY.search(text) is None


def decode(decoder: "msgspec.json.Decoder[T]", data: str | bytes) -> T:
    """Do ``decoder.decode(data)``, but for lone surrogates.

    Give it to a decoder of structs: their raw fields have the escapes as they came, their texts the surrogates.

    Raises:
        msgspec.DecodeError, UnicodeError, RecursionError: as ``decoder.decode`` does.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        found = decode_masked(decoder, data)
        if found is None:
            raise
        return found


def decode_masked(decoder: "msgspec.json.Decoder[T]", data: str | bytes) -> T | None:
    """Do the second half of ``decode``; ``None``: there are no lone surrogates in ``data``."""
    text = data if isinstance(data, str) else str(data, "utf-8")
    # A client can have this done for whatever it sends, so what cannot be is found out first.
    if r"\ud" not in text and r"\uD" not in text:
        return None
    # Something that is nowhere in the text, and that nobody can guess.
    mask = "x" + token_hex(8)
    masked = _ESCAPE.sub(lambda escape: escape[1] or mask, text)
    if masked == text:
        return None
    return _restored(decoder.decode(masked), mask)


def _restored(value: T, mask: str) -> T:
    restored: Any = value
    if isinstance(value, list):
        restored = [_restored(element, mask) for element in value]
    elif isinstance(value, dict):
        restored = {_restored(name, mask): _restored(each, mask) for name, each in value.items()}
    elif isinstance(value, str):
        restored = re.sub(mask + "(.{4})", _surrogate, value)
    elif isinstance(value, Raw):
        raw = bytes(value)
        if mask.encode() in raw:
            restored = Raw(raw.replace(mask.encode(), rb"\u"))
    elif isinstance(value, Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        changed = {
            name: new
            for name, field in fields.items()
            if (new := _restored(field, mask)) is not field
        }
        if changed:
            restored = replace(value, **changed)
    return cast(T, restored)


def _surrogate(digits: re.Match[str]) -> str:
    return chr(int(digits[1], 16))
