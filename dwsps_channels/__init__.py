"""Distributed publish/subscribe over websockets for Django.

``publish`` and ``apublish`` send a message from any Django code; everything else is reached
through ``INSTALLED_APPS``, ``dwsps_channels.routing`` and the ``DWSPS`` setting.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["__version__", "apublish", "publish"]

if TYPE_CHECKING:
    from dwsps_channels.publishing import apublish, publish


def __getattr__(name: str) -> Any:
    # Lazy, so that the package can be imported before Django is set up and the core without Django.
    if name in ("publish", "apublish"):
        from dwsps_channels import publishing

        return getattr(publishing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
