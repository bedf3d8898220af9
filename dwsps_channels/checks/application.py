"""The project's ASGI application, looked into for its way to the consumer: nothing of it is called."""

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any

import channels.routing
from channels.auth import AuthMiddleware
from channels.security.websocket import OriginValidator
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from dwsps_channels.consumers import PubSubConsumer

# Where a middleware keeps the application that it wraps.
_INNER = ("inner", "application", "app")

# Middleware of Channels that says nothing of who the user is.
_WITHOUT_USERS = (CookieMiddleware, SessionMiddleware, OriginValidator)

# Nobody wraps more: a bound for what makes another wrapper whenever it is asked for the inner one.
_MAX_DEPTH = 32


class CannotLoad(Exception):
    """There is no application, or it cannot be imported; the text says why."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


@dataclass(slots=True)
class Ways:
    """The ways of websockets to the consumer."""

    found: list[tuple[Any, ...]] = field(default_factory=list)
    """For each way the middleware that it passes, from without."""
    is_whole: bool = True
    """True if everything was looked into. If not, there may be ways that were not found."""

    @property
    def has_user(self) -> bool:
        """True if each way passes middleware that may set the user. Unknown middleware may."""
        return all(
            any(
                isinstance(each, AuthMiddleware) or not isinstance(each, _WITHOUT_USERS)
                for each in way
            )
            for way in self.found
        )


def load() -> Any:
    """Import ``ASGI_APPLICATION`` as any server does, and return it.

    Raises:
        CannotLoad: it is not set, or its import fails.
    """
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not isinstance(path, str):
        raise CannotLoad(
            "ASGI_APPLICATION is not set: runserver and 'runpubsub --serve' need it",
            "ASGI_APPLICATION = 'yourproject.asgi.application'",
        )
    module, _, name = path.rpartition(".")
    try:
        with _logging_left_alone():
            return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise CannotLoad(
            f"ASGI_APPLICATION cannot be imported: {type(error).__name__}: {error}",
            f"correct the path, or {module or path}; 'python -c \"import {module or path}\"' may show where it fails",
        ) from error


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """Keep ``get_asgi_application`` from setting logging up again, which may silence loggers that are in use."""
    config = settings.LOGGING_CONFIG
    settings.LOGGING_CONFIG = None
    try:
        yield
    finally:
        settings.LOGGING_CONFIG = config


def ways_of(application: Any) -> Ways:
    """Find the ways of a websocket from ``application`` to the consumer."""
    ways = Ways()
    _look(application, (), ways)
    return ways


def _look(application: Any, passed: tuple[Any, ...], ways: Ways) -> None:
    if any(application is each for each in passed):
        return  # functions that know each other
    if len(passed) > _MAX_DEPTH:
        ways.is_whole = False
        return
    consumer = getattr(application, "consumer_class", None)
    if isinstance(consumer, type):
        if issubclass(consumer, PubSubConsumer):
            ways.found.append(passed)
        return
    inner, is_whole = _inside(application)
    ways.is_whole = ways.is_whole and is_whole
    is_router = isinstance(application, _ROUTERS)
    for each in inner:
        _look(each, passed if is_router else (*passed, application), ways)


_ROUTERS = (channels.routing.ProtocolTypeRouter, channels.routing.URLRouter)


def _inside(application: Any) -> tuple[Iterable[Any], bool]:
    """Return the applications that ``application`` hands websockets to, and whether these are certainly all."""
    match application:
        case channels.routing.ProtocolTypeRouter():
            websocket = application.application_mapping.get("websocket")
            return ([] if websocket is None else [websocket]), True
        case channels.routing.URLRouter():
            return [getattr(route, "callback", route) for route in application.routes], True
        case FunctionType(__module__="dwsps_channels.routing"):
            return [], True  # answers what no route knows
        case FunctionType():
            cells = application.__closure__ or ()
            return [each for each in map(_content, cells) if callable(each)], False
        case partial():
            values = [application.func, *application.args, *application.keywords.values()]
            return [each for each in values if callable(each)], False
    for name in _INNER:
        if callable(inner := getattr(application, name, None)):
            return [inner], True
    # Django's own knows HTTP only.
    return [], isinstance(application, ASGIHandler)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
