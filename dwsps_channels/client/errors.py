"""The errors of the client. Their text derives from their fields, and never contains the token.

What a server has written in them (a reason, a location) is made printable: it may go into a log as it is.
"""

from typing import ClassVar

from dwsps_channels.protocol.messages import Action
from dwsps_channels.protocol.text import printable


class ClientError(Exception):
    """Base class of the errors of this package. Misuse raises ``ValueError`` or ``TypeError`` instead."""


# No connection came about.


class ConnectError(ClientError):
    """No connection came about. ``url`` is the address without its query, ``problem`` says why, for people."""

    def __init__(self, url: str, problem: str) -> None:
        self.url = printable(url)
        self.problem = printable(problem)
        super().__init__(f"{self.url}: {self.problem}")


class Refused(ConnectError):
    """The server answered the handshake with an HTTP ``status``, usually 401 or 403."""

    def __init__(self, url: str, status: int, problem: str | None = None) -> None:
        super().__init__(url, problem or f"the server refused the connection with HTTP {status}")
        self.status = status


class Redirected(Refused):
    """The server names another address, ``location`` (without its query). The client does not follow it."""

    def __init__(self, url: str, status: int, location: str) -> None:
        self.location = printable(location)
        where = printable(location, 200) or "another address"
        super().__init__(
            url, status, f"HTTP {status} leads to {where}, and redirects are not followed"
        )


class Unreachable(ConnectError):
    """The host cannot be reached: an unknown name, a port on which nobody listens, a network that is down."""


class AddressNotAllowed(ConnectError):
    """The host is a link-local address, or a name that has only such addresses: a cloud's metadata service, perhaps."""

    def __init__(self, url: str, address: str) -> None:
        super().__init__(url, f"{address} is a link-local address, which is not connected to")
        self.address = address


class NotWebSocket(ConnectError):
    """The answer was not that of a websocket server."""


class TLSFailed(ConnectError):
    """The TLS handshake failed: the certificate is not valid for the host, or the server has no TLS."""


class OpenTimeout(ConnectError, TimeoutError):
    """The connection was not open within ``seconds``."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(url, f"no connection within {seconds:g} s")
        self.seconds = seconds


class NoToken(ConnectError):
    """The token function raised, which is the cause, took too long, or returned a value that no header can carry."""


# A connection is gone.


class ConnectionClosed(ClientError):
    """The connection has ended. ``code`` is its close code, 1006 if it broke; ``reason`` may be empty.

    ``by_server`` is true if the code came from the server. Otherwise this side closed, or the connection broke.
    """

    def __init__(self, code: int, reason: str, *, by_server: bool = False) -> None:
        self.code = code
        self.reason = printable(reason)
        self.by_server = by_server
        super().__init__(f"closed with {code}: {self.reason}" if reason else f"closed with {code}")


# A call failed.


class CallError(ClientError):
    """A call failed. If it is ``retryable``, the same call may succeed later."""

    retryable: bool = False

    def __init__(self, action: Action, topic: str, code: str, reason: str) -> None:
        self.action = action
        self.topic = topic
        self.code = printable(code, 64)
        self.reason = printable(reason)
        # ``repr`` leaves nothing in the topic that moves a cursor.
        super().__init__(f"{action} {topic!r:.300}: {self.code}: {self.reason}")


class ServerError(CallError):
    """The server answered with an error; ``code`` is the server's (docs/reference/protocol.md, "Errors")."""

    def __init__(
        self, action: Action, topic: str, code: str, reason: str, *, retryable: bool
    ) -> None:
        super().__init__(action, topic, code, reason)
        self.retryable = retryable


class _OwnError(CallError):
    """A call that failed on this side, with a code that no server sends."""

    own_code: ClassVar[str]

    def __init__(self, action: Action, topic: str, reason: str) -> None:
        super().__init__(action, topic, self.own_code, reason)


class ConnectionLost(_OwnError):
    """The connection broke after a publish was sent and before its ack: it may have arrived, or not."""

    own_code = "connection_lost"
    retryable = True


class CallTimeout(_OwnError, TimeoutError):
    """The server did not answer in time, although it sent other frames: the call may have taken effect."""

    own_code = "timeout"
    retryable = True


class NoGrant(_OwnError):
    """The grant function raised, which is the cause, took too long, or returned what can be no grant."""

    own_code = "no_grant"
    retryable = True


class QueueFull(_OwnError):
    """``queue_size`` publishes are waiting for a connection. This one was not sent."""

    own_code = "queue_full"
    retryable = True


class Cancelled(_OwnError):
    """The subscription was ended before the server had answered."""

    own_code = "cancelled"


class ClientClosed(_OwnError):
    """The client is closed, by its user or for good by the server: ``reason`` says by whom."""

    own_code = "closed"


class InvalidCall(CallError, ValueError):
    """Nothing was sent: the topic is no text, or the message has no JSON form."""
