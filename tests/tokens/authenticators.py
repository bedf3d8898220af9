"""Authenticators as projects have them, and as they should not be."""

from typing import Any

from django.contrib.auth.models import User
from django.db import DataError, OperationalError

from dwsps_channels.tokens import Authentication


def by_name(token: str, scope: Any) -> Any:
    """Find the user by an opaque token, which is the name."""
    return User.objects.filter(username=token).first()


async def by_name_async(token: str, scope: Any) -> Any:
    return await User.objects.filter(username=token).afirst()


def handed_on(token: str, scope: Any) -> Any:
    return by_name_async(token, scope)


class ByName:
    def __call__(self, token: str, scope: Any) -> Any:
        return by_name(token, scope)


class ByNameAsync:
    async def __call__(self, token: str, scope: Any) -> Any:
        return await by_name_async(token, scope)


def by_path(token: str, scope: Any) -> Any:
    """Find the user by the path of the connection."""
    return by_name(scope["path"].strip("/").rpartition("/")[2], scope)


def failing(token: str, scope: Any) -> Any:
    raise LookupError(f"no idea what {token} is")


async def failing_async(token: str, scope: Any) -> Any:
    raise LookupError(f"no idea what {token} is")


def without_database(token: str, scope: Any) -> Any:
    raise OperationalError("the database is away")


def quoted_by_database(token: str, scope: Any) -> Any:
    raise DataError(f'invalid input syntax for type uuid: "{token}"')


def by_name_without_query(token: str, scope: Any) -> Any:
    return User(pk=1, username=token)


def a_tuple(token: str, scope: Any) -> Any:
    return User(username=token), token


def deactivated(token: str, scope: Any) -> Any:
    return Authentication(User(pk=1, username=token, is_active=False), 2.0**40)


def one_argument(token: str) -> Any:
    return None


class WithArgument:
    def __init__(self, key: str) -> None: ...

    def __call__(self, token: str, scope: Any) -> Any: ...


not_callable = 1
