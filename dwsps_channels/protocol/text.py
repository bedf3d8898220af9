"""Text from outside (a client, a peer, a server, a URL, a header), before people see it in a log, a terminal or a page."""

MAX_CHARACTERS = 500


def printable(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Give ``text`` as one line of at most ``limit`` characters, the last one ``…`` if it was cut.

    Control characters (C0, C1), those that change the direction of text, line separators and lone surrogates become
    spaces: none of them may move a cursor, fake a line or break a database. Apply it to whatever was not written by
    this server or its operator, before it gets into a log line or into the text of an exception.
    """
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(character if character.isprintable() else " " for character in cut)
    return cut if len(text) <= limit else cut[:-1] + "…"
