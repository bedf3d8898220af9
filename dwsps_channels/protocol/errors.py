"""The errors of the protocol, each with its code (docs/reference/protocol.md, "Errors")."""

from typing import ClassVar


class WireError(Exception):
    """An action that was not performed. The session sends it to the client in place of the ack."""

    code: ClassVar[str]
    retryable: ClassVar[bool] = False

    @property
    def reason(self) -> str:
        """One sentence for the client's developer, derived from the error's fields."""
        return str(self)


class InvalidJSON(WireError):
    code = "invalid_json"

    def __init__(self, problem: str) -> None:
        super().__init__(f"not JSON: {problem}")
        self.problem = problem


class InvalidMessage(WireError):
    """JSON, but no message of the protocol: ``field`` is not what is ``expected`` of it."""

    code = "invalid_message"

    def __init__(self, field: str | None, expected: str) -> None:
        super().__init__(
            f"'{field}' must be {expected}" if field else f"a message must be {expected}"
        )
        self.field = field
        self.expected = expected


class InvalidTopic(WireError, ValueError):
    """``topic`` breaks the grammar (docs/reference/protocol.md, "Topics"); ``problem`` says how."""

    code = "invalid_topic"

    def __init__(self, topic: str, problem: str) -> None:
        super().__init__(f"the topic {problem}")
        self.topic = topic
        self.problem = problem


class MessageTooLarge(WireError, ValueError):
    """A message of ``size`` bytes is above the ``limit``, ``DWSPS["MAX_MESSAGE_BYTES"]``."""

    code = "message_too_large"

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the message has {size} bytes, the limit is {limit}")
        self.size = size
        self.limit = limit


class MessageTooDeep(WireError, ValueError):
    """A message is nested more deeply than ``limit``, ``DWSPS["MAX_MESSAGE_DEPTH"]``."""

    code = "message_too_deep"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the message is nested more than {limit} levels deep")
        self.limit = limit


class TooManySubscriptions(WireError):
    code = "too_many_subscriptions"

    def __init__(self, limit: int, of: str = "subscriptions") -> None:
        super().__init__(f"a connection may have {limit} {of}")
        self.limit = limit
        self.of = of


class Forbidden(WireError):
    """The client may not do ``what``; ``why`` is empty if the policy gave no reason."""

    code = "forbidden"

    def __init__(self, what: str, why: str = "") -> None:
        super().__init__(f"not allowed to {what}" + (f": {why}" if why else ""))
        self.what = what
        self.why = why


class Unauthorized(WireError):
    """The client has no valid token, or none any more; ``problem`` says why."""

    code = "unauthorized"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class RateLimited(WireError):
    code = "rate_limited"
    retryable = True

    def __init__(self, rate: float, unit: str = "messages") -> None:
        super().__init__(f"a connection may send {rate:g} {unit} a second")
        self.rate = rate
        self.unit = unit


class Unavailable(WireError):
    """The server cannot do it now; ``problem`` says why. The same request may succeed later."""

    code = "unavailable"
    retryable = True

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
