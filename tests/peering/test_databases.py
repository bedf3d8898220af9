"""Peers and their statuses on each database: what one process writes, another one reads."""

import json

from tests.processes import manage

SECRET = "the-secret-of-this-peer"

WORK = f"""
from dwsps_channels.models import Peer
from dwsps_channels.peering import lease, store
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus

assert Peer.objects.get().secret == {SECRET!r}
[config] = store.load_peers()
stats = LinkStats(waiting=2**40, in_flight=1, acked=7, dropped=5, missed=3, reconnects=2)
for cursor in ({{"a": 1}}, {{"a": 2**53, "b": 2}}):
    status = LinkStatus(LinkState.CONNECTED, 1e9, "\\0gone", 0.5, stats, cursor)
    store.write_statuses({{config.id: status}})
    assert store.load_cursor(config.id) == cursor
assert lease.acquire("the worker", 600)
"""

RESTART = """
from dwsps_channels.models import Peer
from dwsps_channels.peering import store

[config] = store.load_peers()
assert store.load_cursor(config.id)
Peer.objects.disable()
Peer.objects.enable()
assert store.load_cursor(config.id) == {}
"""


def test_the_command_lists_what_the_worker_wrote(database_environment: dict[str, str]) -> None:
    url = f"ws://far.example/?token={SECRET}"
    manage("peers", "add", "far", url, env=database_environment)
    manage("shell", "-c", WORK, env=database_environment)
    [far] = json.loads(manage("peers", "list", "--json", env=database_environment))
    # A busy machine may make it stale meanwhile.
    assert "connected" in far["text"]
    assert (far["last_error"], far["queued"]) == (" gone", 2**40 + 1)
    assert (far["dropped"], far["missed"], far["reconnects"]) == (5, 3, 2)
    manage("shell", "-c", RESTART, env=database_environment)
    manage("peers", "remove", "far", env=database_environment)
    assert json.loads(manage("peers", "list", "--json", env=database_environment)) == []
