"""Distributed publish/subscribe over websockets for Django.

``publish`` and ``apublish`` send a message from any Django code, ``history`` and ``ahistory`` read what was sent;
everything else is reached through ``INSTALLED_APPS``, ``dwsps_channels.routing`` and the ``DWSPS`` setting.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["__version__", "ahistory", "apublish", "history", "publish"]

if TYPE_CHECKING:
    from dwsps_channels.publishing import apublish, publish
    from dwsps_channels.reading import ahistory, history


def __getattr__(name: str) -> Any:
    # Lazy, so that the package can be imported before Django is set up and the core without Django.
    if name in ("publish", "apublish"):
        from dwsps_channels import publishing

        return getattr(publishing, name)
    if name in ("history", "ahistory"):
        from dwsps_channels import reading

        return getattr(reading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
