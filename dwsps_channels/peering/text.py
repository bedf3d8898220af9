"""Text that another server has written, before people see it: in a log, a terminal, a database."""

MAX_CHARACTERS = 500


def printable(text: str) -> str:
    """``text`` without what moves cursors, breaks lines or databases; and not more of it than anybody reads."""
    shown = "".join(
        character if character.isprintable() else " " for character in text[:MAX_CHARACTERS]
    )
    return shown if len(text) <= MAX_CHARACTERS else shown[:-1] + "…"
