"""The websocket routes of the app, for the project's ``URLRouter``."""

from typing import Any

from django.urls import path

from dwsps_channels.consumers import PubSubConsumer

# Typed loosely: Django's own type of a route knows views only.
_application: Any = PubSubConsumer.as_asgi()

websocket_urlpatterns = [path("ws/pubsub/", _application)]
