"""Migrations of rows that a former version wrote, on each database."""

import json

from tests.processes import manage

BEFORE = """
from datetime import UTC, datetime
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

apps = MigrationExecutor(connection).loader.project_state(
    ("dwsps_channels", "0001_initial")
).apps
Peer = apps.get_model("dwsps_channels", "Peer")
PeerStatus = apps.get_model("dwsps_channels", "PeerStatus")
for name, values in {
    "up to date": {"seen_at": datetime(2026, 11, 26, 12, 0, 0, 250_000, UTC), "queued": 0},
    "behind": {"seen_at": datetime(2026, 11, 26, 12, tzinfo=UTC), "queued": 7},
    "new": {"seen_at": None},
}.items():
    peer = Peer.objects.create(name=name, url="ws://b.example/")
    PeerStatus.objects.create(
        peer=peer, state="connected", acked=12, cursor={"0" * 32: 2**53}, **values
    )
"""

AFTER = """
import json
from dwsps_channels.models import PeerStatus

print(json.dumps({
    status.peer.name: [status.position, status.position_at, status.acked, status.lag]
    for status in PeerStatus.objects.select_related("peer")
}))
"""

BACK = """
from django.db import connection

with connection.cursor() as cursor:
    cursor.execute("SELECT state, queued, acked FROM dwsps_channels_peerstatus ")
    assert cursor.fetchall() == [("connected", 0, 12)] * 3
"""


def migrate(target: str, env: dict[str, str]) -> None:
    manage("migrate", "--verbosity", "0", "dwsps_channels", target, env=env)


def test_a_link_reads_on_where_the_former_version_stopped(
    database_environment: dict[str, str],
) -> None:
    migrate("0001", database_environment)
    manage("shell", "-c", BEFORE, env=database_environment)
    migrate("0002", database_environment)
    printed = manage("shell", "--verbosity", "0", "-c", AFTER, env=database_environment)
    assert json.loads(printed) == {
        # 2026-11-26 12:00:00.25
        "up to date": ["", 1795694400.25, 12, 0],
        # The former version had not sent some of what came before, and did not know how old it was.
        "behind": ["", 0.0, 12, 0],
        "new": ["", 0.0, 12, 0],
    }
    # And back, where the former version begins with what its server still has.
    migrate("0001", database_environment)
    manage("shell", "-c", BACK, env=database_environment)
    migrate("0002", database_environment)
