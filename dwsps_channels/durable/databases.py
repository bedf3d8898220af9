"""The databases that durable messages may wait in."""

from django.db import connections, router

from dwsps_channels.models import DurableMessage, DurableMessageQuerySet


def databases_with_table() -> list[str]:
    """Return the aliases of the databases that have the table: a message is stored where its transaction is."""
    return [alias for alias in connections if has_table(alias)]


def has_table(database: str) -> bool:
    """Return whether ``database`` has the table. A router may keep it away; without one any database may have it."""
    connection = connections[database]
    # DATABASES may have an empty "default".
    if connection.vendor == "unknown" or not router.allow_migrate_model(database, DurableMessage):
        return False
    return DurableMessage._meta.db_table in connection.introspection.table_names()


def rows_of(database: str) -> DurableMessageQuerySet:
    """Select the messages that ``database`` has, such that changes are committed at once."""
    connection = connections[database]
    # DATABASES may turn it off: then nobody else would commit.
    if not connection.in_atomic_block and not connection.get_autocommit():
        connection.set_autocommit(True)
    return DurableMessage.objects.using(database)
