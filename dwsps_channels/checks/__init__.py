"""Django system checks. docs/reference/checks.md has a line for each."""

from dwsps_channels.checks.database import check_durable
from dwsps_channels.checks.settings import (
    check_application,
    check_daphne,
    check_deployment,
    check_page_cursor,
    check_servers,
    check_settings,
    check_static_files,
    check_strangers,
)

__all__ = [
    "check_application",
    "check_daphne",
    "check_deployment",
    "check_durable",
    "check_page_cursor",
    "check_servers",
    "check_settings",
    "check_static_files",
    "check_strangers",
]
