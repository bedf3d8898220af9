"""The name of a process that holds a lease, by which others on the same machine can tell that it has ended."""

import os
from functools import cache
from hashlib import sha256
from pathlib import Path
from secrets import token_hex


def new_holder() -> str:
    """Return a name that no other holder has, of this process or another. It has 64 characters at most."""
    pid = os.getpid()
    return f"{_place()}:{pid}:{_started(pid)}:{token_hex(4)}"


def has_ended(holder: str) -> bool:
    """Return whether ``holder`` is known to be a process that has ended.

    That can be known of those on this machine, and in the same container, since it was last booted. It needs Linux's
    ``/proc``.
    """
    place, _, rest = holder.partition(":")
    pid, _, rest = rest.partition(":")
    started = rest.partition(":")[0]
    if not place or place != _place() or not pid.isdecimal():
        return False
    if not _started(1):
        return False  # this system hides the processes of other users
    # Another process may have got its id since.
    return _started(int(pid)) != started


@cache
def _place() -> str:
    """Name the boot of this machine, and the container within which process ids mean something; empty: not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return sha256(f"{boot}{namespace}".encode()).hexdigest()[:16]


def _started(pid: int) -> str:
    """Return when a process was started, in ticks since the boot; empty: it does not run (any more)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # After the name in parentheses: the state, and the start as the 20th.
    return "" if fields[0] in "ZX" else fields[19]
