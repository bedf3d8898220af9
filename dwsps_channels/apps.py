"""The app, as Django sees it."""

from django.apps import AppConfig


class DwspsChannelsConfig(AppConfig):
    """``INSTALLED_APPS += ["dwsps_channels"]``."""

    name = "dwsps_channels"
    verbose_name = "Publish/subscribe"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from dwsps_channels import checks  # noqa: F401  (registers them)
        from dwsps_channels.access import hooks

        hooks.connect()
