"""``manage.py durable``: the durable messages that wait in the database."""

from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from json import dumps
from typing import Any, Final
from uuid import UUID

from django.core.management.base import CommandError

from dwsps_channels.durable.databases import databases_with_table, rows_of
from dwsps_channels.durable.sweep import BATCH, Swept, sweep
from dwsps_channels.durable.waiting import Waiting, lacks_worker, waiting_by_topic
from dwsps_channels.management.subcommands import AddSubcommand, CommandWithSubcommands
from dwsps_channels.management.table import table
from dwsps_channels.models import DurableMessage
from dwsps_channels.peering.units import duration
from dwsps_channels.protocol.text import printable
from dwsps_channels.publishing.choice import choose_publisher

EPILOG = """\
examples:
  manage.py durable list
  manage.py durable send
  manage.py durable remove 6f1c9c0e-5d0f-4e0b-9c66-0d1f8a1c7e11
  manage.py durable remove --older-than 3600

The exit status is 0 on success, 1 if a message could not be published or was not
found, and 2 if the command line is wrong.
"""


MAX_AGE: Final = 1_000_000_000


class Command(CommandWithSubcommands):
    # Broken into lines by hand, as the formatter keeps the lines of the examples.
    help = (
        "Look at the durable messages that wait in the database: those that a process\n"
        "could not publish after publish(…, durable=True). The worker, 'manage.py\n"
        "runpubsub', publishes them by itself."
    )

    epilog = EPILOG

    def add_subcommands(self, add: AddSubcommand) -> None:
        listing = add("list", self.list, "list how many messages wait, by topic")
        form = listing.add_mutually_exclusive_group()
        form.add_argument("--ids", action="store_true", help="list each message, with its id")
        form.add_argument("--json", action="store_true", help="print a JSON array of objects")
        add("send", self.send, "publish the messages that wait now, without the worker")
        removal = add("remove", self.remove, "delete messages without publishing them")
        which = removal.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "ids",
            nargs="*",
            type=UUID,
            default=[],
            metavar="ID",
            help="the ids of messages, as 'list --ids' shows them",
        )
        which.add_argument(
            "--older-than",
            type=_seconds,
            metavar="SECONDS",
            help="all that were stored more than so many seconds ago",
        )

    def list(self, *, ids: bool, json: bool, **options: Any) -> None:
        databases = _databases()
        waiting = waiting_by_topic(databases)
        if json:
            self.stdout.write(dumps([_described(each) for each in waiting], indent=2))
            return
        if not waiting:
            self.stderr.write("no durable message waits")
            return
        for line in table([*(_by_id(databases) if ids else _by_topic(waiting))]):
            self.stdout.write(line)
        self.stdout.write(f"{_messages(sum(each.messages for each in waiting), 'wait')}")
        if lacks_worker(databases):
            self.stdout.write(
                "no worker is running: start 'manage.py runpubsub', or publish them with 'manage.py durable send'"
            )

    def send(self, **options: Any) -> None:
        swept = [swept for database in _databases() for swept in _send_all(database)]
        self.stdout.write(f"published {_messages(sum(each.sent for each in swept))}")
        for refusal in filter(None, (each.refusal for each in swept)):
            self.stderr.write(f"refused: {refusal}")
        if refused := sum(each.refused for each in swept):
            raise CommandError(
                f"{_messages(refused)} cannot be published: see 'durable list --ids'"
            )
        for problem in filter(None, (each.problem for each in swept)):
            raise CommandError(f"the rest waits: {problem}")

    def remove(self, *, ids: Sequence[UUID], older_than: float | None, **options: Any) -> None:
        removed = 0
        known: set[UUID] = set()
        for database in _databases():
            rows = rows_of(database)
            chosen = rows.filter(pk__in=ids) if older_than is None else rows.older_than(older_than)
            known.update(chosen.values_list("pk", flat=True) if ids else ())
            removed += chosen.delete()[0]
        self.stdout.write(f"removed {_messages(removed)}")
        if unknown := [str(each) for each in ids if each not in known]:
            raise CommandError(f"no message with this id waits: {', '.join(unknown)}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    # Databases compute with it. A negative age would be that of every message.
    if not 0 <= seconds <= MAX_AGE:
        raise ArgumentTypeError(f"'{text}' is not a number of seconds from 0 to {MAX_AGE}")
    return seconds


def _databases() -> Sequence[str]:
    """Return the databases that have the table; fail if none has it."""
    if found := databases_with_table():
        return found
    raise CommandError("no database has the table of durable messages: run 'manage.py migrate'")


def _send_all(database: str) -> Iterator[Swept]:
    """Sweep all that is left behind in ``database`` now, each message once, until the server takes no more."""
    left = DurableMessage.objects.using(database).left().order_by("due_at", "created_at", "id")
    waiting = list(left.values_list("pk", flat=True))
    while waiting:
        swept = sweep(database, choose_publisher(), waiting[:BATCH])
        waiting[:BATCH] = swept.left
        yield swept
        if swept.problem:
            return


def _messages(count: int, verb: str = "") -> str:
    if not verb:
        return "1 message" if count == 1 else f"{count} messages"
    return f"1 message {verb}s" if count == 1 else f"{count} messages {verb}"


def _by_topic(waiting: Sequence[Waiting]) -> Iterator[tuple[str, ...]]:
    yield ("DATABASE", "TOPIC", "MESSAGES", "OLDEST", "ATTEMPTS", "LAST ERROR")
    for each in waiting:
        yield (
            each.database,
            printable(each.topic),
            str(each.messages),
            duration(each.age),
            str(each.attempts),
            printable(each.last_error) or "-",
        )


def _by_id(databases: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield ("ID", "TOPIC", "STORED", "ATTEMPTS", "LAST ERROR")
    for database in databases:
        rows = DurableMessage.objects.using(database).oldest_first()
        for row in rows.defer("message").iterator():
            yield (
                str(row.id),
                printable(row.topic),
                row.created_at.isoformat(" ", "seconds"),
                str(row.attempts),
                printable(row.last_error) or "-",
            )


def _described(waiting: Waiting) -> dict[str, Any]:
    return {
        "database": waiting.database,
        "topic": waiting.topic,
        "messages": waiting.messages,
        "oldest_at": waiting.oldest_at.isoformat(),
        "age": waiting.age,
        "attempts": waiting.attempts,
        "last_error": waiting.last_error,
    }
