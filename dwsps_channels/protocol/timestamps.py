"""The server's form of a moment: RFC 3339, UTC, milliseconds, ``Z``."""

from time import gmtime, strftime, time_ns

# RFC 3339, section 5.6, the ABNF's ranges included; the number of days in a month is left to who reads it.
# No \d, which takes every script's digits, and no $, which takes a line feed after the end.
RFC3339 = (
    r"\A[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[Tt ]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]{1,9})?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])\Z"
)

# A millisecond and its text, a second and its part of it, each swapped as one: publishers may be in other threads.
_latest: tuple[int, str] = (-1, "")
_latest_second: tuple[int, str] = (-1, "")


def now() -> str:
    """Return the present moment, as in ``2020-01-21T17:03:13.625Z``."""
    # Made once a millisecond, and most of it once a second: this is called for every ack.
    global _latest, _latest_second
    millisecond = time_ns() // 1_000_000
    made, text = _latest
    if millisecond != made:
        second, rest = divmod(millisecond, 1000)
        made, prefix = _latest_second
        if second != made:
            prefix = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
            _latest_second = (second, prefix)
        text = f"{prefix}.{rest:03d}Z"
        _latest = (millisecond, text)
    return text
