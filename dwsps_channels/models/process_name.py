"""Names of processes in rows of the database: of the holder of a lease, of the writer of a report."""

import os
import socket
from secrets import token_hex

# So that a name fits into 64 characters.
_HOST_LENGTH = 40


def new_process_name() -> str:
    """Make a name for this run of this process: its host, its id, and what no other run has."""
    return f"{socket.gethostname()[:_HOST_LENGTH]}:{os.getpid()}:{token_hex(4)}"


def shown_process(name: str) -> str:
    """Return the name for people: "web-1, process 4711"."""
    host, _, rest = name.partition(":")
    pid = rest.partition(":")[0]
    return f"{host}, process {pid}" if pid else name
