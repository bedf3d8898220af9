"""The errors that code of a project may catch. The Python client has its own, in ``dwsps_channels.client``."""

from dwsps_channels.protocol.errors import (
    InvalidTopic,
    MessageTooDeep,
    MessageTooLarge,
    Unavailable,
)

__all__ = [
    "InvalidKey",
    "InvalidPayload",
    "InvalidTopic",
    "MessageTooDeep",
    "MessageTooLarge",
    "NoLog",
    "NotServing",
    "Unavailable",
]


class InvalidPayload(ValueError):
    """The message cannot be encoded as JSON; ``field`` names the argument."""

    field = "message"


class InvalidKey(ValueError):
    """The key of a publish is not a string of 1 to 64 characters; ``field`` names the argument."""

    field = "key"


class NoLog(RuntimeError):
    """The server keeps no log, so it has no history: ``broker`` is the class of its broker, if that is known."""

    def __init__(self, broker: str = "") -> None:
        which = f": its broker is {broker}" if broker else ""
        super().__init__(
            f"the server keeps no log, so it has no history{which}. Use a channels_redis layer, or MemoryBackend for a "
            "server of one process"
        )
        self.broker = broker


class NotServing(RuntimeError):
    """The process serves no websockets, and cannot reach a process that does; ``problem`` is the error at ``url``."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(
            "this process serves no websockets, and cannot reach one that does: CHANNEL_LAYERS has no layer that "
            f"processes share, such as channels_redis, and DWSPS['SERVER_URL'], {url}, cannot be used: {problem}. "
            "Set up either, or start the server"
        )
        self.url = url
        self.problem = problem
