"""A filter that keeps tokens out of the lines that an ASGI server logs about requests."""

import logging
import re
from typing import Any, Final

# uvicorn's: it logs the path of each handshake and request, with the query.
LOGGERS: Final = ("uvicorn.access", "uvicorn.error")

_TOKEN: Final = re.compile(r"([?&]token=)[^&\s]+")


class TokenFilter(logging.Filter):
    """Replaces the value of ``token`` in the queries of URLs. It drops no line."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_hide, record.args))
        record.msg = _hide(record.msg)
        return True


_FILTER: Final = TokenFilter()


def hide_tokens() -> None:
    """Hide tokens in the lines of ``LOGGERS``. A second call does nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)


def _hide(text: Any) -> Any:
    return _TOKEN.sub(r"\1***", text) if isinstance(text, str) and "token=" in text else text
