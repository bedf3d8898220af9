"""The lazy objects that middleware puts into a scope: a user or a session that is queried when somebody looks at it."""

from typing import Any

from django.utils.functional import LazyObject, empty


def is_loaded(value: Any) -> bool:
    """Return whether ``value`` can be looked at without a query: it is not lazy, or somebody has looked at it before."""
    return not isinstance(value, LazyObject) or value._wrapped is not empty
