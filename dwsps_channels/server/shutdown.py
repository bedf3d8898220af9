"""A hook that is called before the ASGI server shuts down, whatever the server.

There is no one way: Daphne has no lifespan, and by the time uvicorn's lifespan ends the connections are closed.
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any

Hook = Callable[[], Coroutine[Any, Any, None]]


def before_shutdown(hook: Hook) -> None:
    """Run ``hook`` on this event loop when the process is told to end, and let it end when ``hook`` is done.

    Where neither Daphne's reactor nor the main thread runs this loop, as in tests, nothing is hooked.
    """
    loop = asyncio.get_running_loop()
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if reactor is not None and getattr(reactor, "_asyncioEventloop", None) is loop:
        _hook_reactor(reactor, hook)
    elif threading.current_thread() is threading.main_thread():
        _hook_signals(loop, hook)


def end_signals() -> list[signal.Signals]:
    """Return the signals at which our processes end gracefully."""
    return [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangup_ends() else [])]


def hangup_ends() -> bool:
    """Return whether SIGHUP, as when a terminal is closed, would end this process at once, without a hook.

    It does not if the server has a use of its own for it, nor under ``nohup``.
    """
    number = getattr(signal, "SIGHUP", None)  # Windows has none
    if number is None:
        return False
    handler = signal.getsignal(number)
    return handler is signal.SIG_DFL or (isinstance(handler, _Hangup) and handler.is_over)


def _hook_reactor(reactor: Any, hook: Hook) -> None:
    from twisted.internet.defer import Deferred
    from twisted.internet.error import ReactorNotRunning

    def stop() -> None:
        with suppress(ReactorNotRunning):  # it stops already
            reactor.stop()

    if threading.current_thread() is threading.main_thread() and hangup_ends():
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(stop))

    # The reactor goes on once the Deferred fires.
    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromFuture(asyncio.ensure_future(hook()))
    )


def _hook_signals(loop: asyncio.AbstractEventLoop, hook: Hook) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        server_handler = signal.getsignal(signum)
        if isinstance(server_handler, _SignalHandler) and server_handler.is_over:
            server_handler = server_handler.server_handler
        # Without a handler of the server's there is no server that ends by signals, and nothing to come before.
        if callable(server_handler) and server_handler is not signal.default_int_handler:
            signal.signal(signum, _SignalHandler(loop, hook, server_handler))
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _SignalHandler) and hangup_ends():
        signal.signal(signal.SIGHUP, _Hangup(handler))


class _Hangup:
    """Ends the process at SIGHUP as ``handler`` does at SIGTERM."""

    def __init__(self, handler: "_SignalHandler") -> None:
        self._handler = handler

    @property
    def is_over(self) -> bool:
        return self._handler.is_over

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self._handler(signal.SIGTERM, frame)


class _SignalHandler:
    """Runs the hook at the first signal, and passes it on to the server afterwards; a second one at once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hook: Hook,
        server_handler: Callable[[int, FrameType | None], Any],
    ) -> None:
        self._loop = loop
        self._hook = hook
        self.server_handler = server_handler
        self._running: asyncio.Task[None] | None = None
        self._called = False

    @property
    def is_over(self) -> bool:
        """Return whether its loop has ended, as each test's does: there is nothing left to run the hook on."""
        return self._loop.is_closed()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self._called or self.is_over:
            self._pass_on(signum)
        else:
            self._called = True
            self._loop.call_soon_threadsafe(self._run, signum)

    def _run(self, signum: int) -> None:
        self._running = self._loop.create_task(self._hook())
        self._running.add_done_callback(lambda _: self._pass_on(signum))

    def _pass_on(self, signum: int) -> None:
        server: Any = getattr(self.server_handler, "__self__", None)
        if signum == signal.SIGTERM and hasattr(server, "should_exit"):
            # uvicorn: its handler would have the signal raised again at the end, and the exit status with it.
            server.should_exit = True
        else:
            self.server_handler(signum, None)
