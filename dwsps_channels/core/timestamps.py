"""The server's form of a moment: RFC 3339, UTC, milliseconds, ``Z``."""

from time import gmtime, strftime, time

# RFC 3339, section 5.6, the ABNF's ranges included; the number of days in a month is left to who reads it.
RFC3339 = (
    r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"[Tt ]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d{1,9})?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$"
)

_second = -1
_prefix = ""


def now() -> str:
    """The present moment, as in ``2020-01-21T17:03:13.625Z``."""
    # The part down to the second is made once a second: this is called for every ack.
    global _second, _prefix
    moment = time()
    second = int(moment)
    if second != _second:
        _prefix = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        _second = second
    return f"{_prefix}.{int((moment - second) * 1000):03d}Z"
