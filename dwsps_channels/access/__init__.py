"""Access that ends while connections stand: on every process of the server, from any Django code.

Django's own changes (a logout, a changed password, a deactivated or deleted user, groups and permissions that are given or
taken) need no call: ``hooks.py`` hears of them.
"""

from dwsps_channels.access.api import (
    adisconnect,
    apermission_changed,
    disconnect,
    permission_changed,
)

__all__ = ["adisconnect", "apermission_changed", "disconnect", "permission_changed"]
