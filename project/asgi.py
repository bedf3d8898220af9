import os
import warnings
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.core.asgi import get_asgi_application

# Sets Django up, which must come before anything is imported that needs its models.
http = get_asgi_application()

from channels.routing import ProtocolTypeRouter
from django.urls import path

from dwsps_channels.auth import AuthMiddlewareStack
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.routing import URLRouter, websocket_urlpatterns

# Said of a static file, which a thread reads a block at a time: nothing to mend.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous")


# Channels routes with Django's paths to what Django's stubs do not know: applications in place of views.
routes: list[Any] = [
    # dwsps clients are told a host and a port, and no path.
    path("", PubSubConsumer.as_asgi()),
    *websocket_urlpatterns,
]

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": AuthMiddlewareStack(URLRouter(routes)),
    }
)
