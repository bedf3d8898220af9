"""The demo project's settings with an empty ``default`` database, and a router that leads to another one."""

from project import settings
from tests.server_settings import *

DATABASES = {"default": {}, "main": settings.database()}
DATABASE_ROUTERS = ["tests.routed_settings.Router"]


class Router:
    """Has everything in ``main``."""

    def db_for_read(self, model: object, **hints: object) -> str:
        return "main"

    db_for_write = db_for_read

    def allow_relation(self, one: object, other: object, **hints: object) -> bool:
        return True

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool:
        return db == "main"
