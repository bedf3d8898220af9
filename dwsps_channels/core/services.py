"""The parts of a process that all of its sessions use."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from msgspec import Struct

from dwsps_channels.core.futures import Gather, one_by_one
from dwsps_channels.core.grants import CheckGrant, no_grants
from dwsps_channels.core.identity import FindUser, user_id_of
from dwsps_channels.core.node import Node
from dwsps_channels.core.observer import Observer
from dwsps_channels.core.pacing import Pause, no_pause
from dwsps_channels.core.policy import Policy
from dwsps_channels.core.scheduler import NEVER, Scheduler


def _ignore(session: Any) -> None: ...


class Services(Struct, frozen=True):
    """Made once for a process. Only the first two are needed: the others do without what their names say."""

    node: Node
    policy: Policy
    observers: Sequence[Observer] = ()
    clock: Callable[[], float] = monotonic
    """In seconds, for the rate limit."""
    gather: Gather = one_by_one
    pause: Pause = no_pause
    find_user: FindUser = user_id_of
    check_grant: CheckGrant = no_grants
    scheduler: Scheduler = NEVER
    on_identity: Callable[[Any], None] = _ignore
    """Is called with a session after its identity was replaced."""
