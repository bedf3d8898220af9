"""Django signals for the actions of clients, in place of dwsps's ``server.on('subscribe', …)``.

Each has the arguments ``client`` (the server's id for the connection, a string) and ``user`` (the Django user, or
``None``). Receivers run after the event and in order. A receiver that raises or is slow delays no message. Plain
receivers run in a thread and may use the database; ``async def`` receivers run on the event loop.
"""

from django.dispatch import Signal

connected = Signal()
"""Sent when a connection was accepted."""

disconnected = Signal()
"""Sent when a connection has ended."""

subscribed = Signal()
"""Sent when a client has a new subscription. Also has ``topic``."""

unsubscribed = Signal()
"""Sent when a subscription has ended: the client has unsubscribed, or is not allowed to have it any more. Also has ``topic``.

Not sent for subscriptions that end with a connection.
"""

published = Signal()
"""Sent when a client of this process has published. Also has ``topic`` and ``message``, the published value."""

peer_connected = Signal()
"""Sent in the worker when a link to a peer is connected. Has ``peer``, its name, and neither ``client`` nor ``user``."""

peer_disconnected = Signal()
"""Sent in the worker when a link to a peer is lost. Has ``peer``, its name, and neither ``client`` nor ``user``."""
