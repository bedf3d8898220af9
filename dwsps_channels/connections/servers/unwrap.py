"""The objects that an ASGI ``send`` is made of, beneath the middleware that wraps it."""

from collections.abc import Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final

MAX_SEARCHED: Final = 64


def unwrap(send: Any) -> Iterator[Any]:
    """Yield what ``send`` is made of, and what that is made of, down to the server's own objects."""
    seen: set[int] = set()
    found: list[Any] = [send]
    for item in found:
        if id(item) in seen or len(seen) >= MAX_SEARCHED:
            continue
        seen.add(id(item))
        yield item
        found.extend(_wrapped_in(item))


def _wrapped_in(item: Any) -> Iterable[Any]:
    if isinstance(item, partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, MethodType):
        return [item.__self__]
    if isinstance(item, FunctionType):
        return [cell.cell_contents for cell in item.__closure__ or () if _is_filled(cell)]
    # An object that holds the server's send, as Channels' session middleware does.
    return [value for value in getattr(item, "__dict__", {}).values() if callable(value)]


def _is_filled(cell: Any) -> bool:
    try:
        return callable(cell.cell_contents)
    except ValueError:
        return False
