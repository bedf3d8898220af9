"""The contract of grants: a signed permission for a topic, which a client brings with its subscribe."""

from collections.abc import Awaitable, Callable

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.policy import Answer
from dwsps_channels.protocol.errors import Forbidden

CheckGrant = Callable[[Identity, str, str], Answer | Awaitable[Answer]]
"""Decides whether a client may subscribe to a topic to which it brings a grant: identity, topic, grant.

If the grant has expired or was revoked, it asks the policy. It raises ``Forbidden`` with the reason if the grant is not for
this client and topic. ``Decision.recheck_after`` is the time that the grant lasts.
"""


def no_grants(identity: Identity, topic: str, grant: str) -> bool:
    """Refuse any: the ``CheckGrant`` of those who make none."""
    raise Forbidden(f"subscribe to '{topic}'", "this server makes no grants")
