"""The server's close codes; their range tells a client what to do (docs/reference/protocol.md, "Closing").

All lie above 3999, because autobahn, and so Daphne, lets an application close only with 1000 and 3000 to 4999.
"""

from enum import IntEnum
from typing import Final

TOO_BIG: Final = 1009
"""RFC 6455, section 7.4.1: the other end takes no message of that size."""


class CloseCode(IntEnum):
    """4000-4099: do not come back. 4100-4199: with backoff. 4200-4299: at once."""

    UNAUTHORIZED = 4001
    FORBIDDEN = 4003
    SLOW_CONSUMER = 4100
    PING_TIMEOUT = 4101
    FLOODING = 4102
    UNVERIFIED = 4103
    GOING_AWAY = 4200
