"""A secret text for the server, such as a token, or the function that gives it."""

import inspect
from collections.abc import Awaitable, Callable

TextSource = str | Callable[[], str | Awaitable[str]]
"""A text, or a function or coroutine function that gives one for each connection."""


async def ask(source: TextSource) -> object:
    """Return the text; of a function, the value that it returns, which may be anything.

    Raises:
        Exception: what the function raises.
    """
    if not callable(source):
        return source
    answer = source()
    return await answer if inspect.isawaitable(answer) else answer
