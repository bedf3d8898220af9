"""The number of sessions that a publish reached, for tests that ask for nothing else."""

from dwsps_channels.publishing import PublishResult


def reached(result: PublishResult | None) -> int | None:
    """Return the number; ``None``: the publish waits for the commit."""
    return None if result is None else result.reached
