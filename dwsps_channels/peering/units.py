"""Numbers for people: durations and counts."""

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """Return the largest unit that fits, without fractions: "3 min"."""
    whole = max(0, int(seconds))
    for size, unit in _UNITS:
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def count(number: int) -> str:
    """Return the number in groups of three digits, with spaces at which no line breaks: "1 204"."""
    return f"{number:,}".replace(",", NO_BREAK_SPACE)
