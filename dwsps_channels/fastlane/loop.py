"""The event loop of the fast lane."""

import asyncio

import uvloop


def new_loop() -> asyncio.AbstractEventLoop:
    """A uvloop event loop, for uvicorn's ``--loop``."""
    return uvloop.new_event_loop()
