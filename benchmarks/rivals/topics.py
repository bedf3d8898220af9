"""Topics with levels, for rivals that have none of their own."""


def contexts(topic: str) -> list[str]:
    """Return the topic and those above it, the deepest first: ``news.uk`` gives ``news.uk`` and ``news``."""
    levels = topic.split(".")
    return [".".join(levels[:depth]) for depth in range(len(levels), 0, -1)]
