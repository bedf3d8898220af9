"""The counters of the connections of this process, since its start."""


class Counters:
    """Counters that only grow."""

    __slots__ = ("ping_timeouts", "protocol_errors", "slow_consumers")

    def __init__(self) -> None:
        self.slow_consumers = 0
        """Clients that did not read while more than their limit was queued."""
        self.ping_timeouts = 0
        """Clients of the fast lane that did not answer a ping."""
        self.protocol_errors = 0
        """Clients of the fast lane that broke RFC 6455 or a limit of the server."""


counters = Counters()
"""Those of this process."""
