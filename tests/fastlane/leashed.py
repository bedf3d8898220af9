"""The demo project for ``uvicorn --workers``: a worker ends when its parent dies, as the parent does with the test run."""

import ctypes
import signal

from project.asgi import application

__all__ = ["application"]

# The parent has been given such a leash by ``tests.processes``, and it is not handed down.
PR_SET_PDEATHSIG = 1

ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
