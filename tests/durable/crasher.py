"""A program whose children publish durable messages and are killed on the way. It serves nothing, as a task queue's worker.

Its arguments are the moments, one a child; child 0 publishes 0, and so on. It prints when each was killed: seconds since the
epoch.
"""

import os
import signal
import sys
import time
from typing import Any

import django

BEFORE_COMMIT = "before-commit"
BEFORE_HOOK = "before-hook"
BEFORE_LOG = "before-log"
BEFORE_DELETE = "before-delete"
BY_HAND = "by-hand"
"""After the commit of a transaction that was begun by hand: no hook runs."""
MOMENTS = (BEFORE_HOOK, BEFORE_LOG, BEFORE_DELETE, BY_HAND)
"""Those after which the message must come."""


def die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def publish_and_die(number: int, moment: str) -> None:
    from django.db import transaction

    from dwsps_channels import publish

    arm(moment)
    if moment == BY_HAND:
        transaction.set_autocommit(False)
        publish("news", number, durable=True)
        transaction.commit()
        die()
    with transaction.atomic():
        if moment == BEFORE_HOOK:
            transaction.on_commit(die)
        with transaction.atomic():
            publish("news", "of a savepoint that is rolled back", durable=True)
            transaction.set_rollback(True)
        with transaction.atomic():
            publish("news", number, durable=True)
        if moment == BEFORE_COMMIT:
            die()


async def apublish_and_die(number: int, moment: str) -> None:
    from dwsps_channels import apublish

    arm(moment)
    await apublish("news", number, durable=True)


def arm(moment: str) -> None:
    """Have this process killed where it is about to hand over a message, or to delete a row."""
    from dwsps_channels.publishing.choice import choose_publisher
    from dwsps_channels.publishing.durable import StoredMessage
    from dwsps_channels.publishing.losses import delays

    if moment == BEFORE_LOG:
        publisher: Any = type(choose_publisher())
        publisher.publish = publisher.apublish = die
    if moment == BEFORE_DELETE:
        StoredMessage.remove = die  # type: ignore[method-assign]
        # On a busy machine the server may answer too late: then the row would stay without a kill.
        delays.add = die  # type: ignore[method-assign]


def main() -> None:
    django.setup()
    for number, moment in enumerate(sys.argv[1:]):
        child = os.fork()
        if child == 0:
            publish_and_die(number, moment)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the child at {moment} was not killed: {status}")
        print(time.time(), flush=True)


if __name__ == "__main__":
    main()
