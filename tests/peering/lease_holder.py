"""A process that competes for the worker's lease: `python -m tests.peering.lease_holder NAME ROUNDS LOCK`.

It says "ready", waits for a line, and takes and releases the lease so often. Who has it makes the file LOCK, which
must not be there, and takes it away again; a breach ends the process with a traceback.
"""

import os
import sys
import time
from pathlib import Path

import django


def main(name: str, rounds: int, lock: Path) -> None:
    django.setup()
    # Not at the top: it needs the models.
    from dwsps_channels.peering import lease

    lease.worker_is_running()  # so that the connection is there
    print("ready", flush=True)
    sys.stdin.readline()
    had = 0
    while had < rounds:
        if lease.acquire(name, 60):
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            assert lease.acquire(name, 60)
            lock.unlink()
            lease.release(name)
            had += 1
        else:
            # Not for long: the others are to meet it when it comes back.
            time.sleep(0.002)
    print(had)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
