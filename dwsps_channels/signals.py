"""Django signals for what clients do, in place of dwsps's ``server.on('subscribe', …)``.

All are sent with ``client`` (the server's own id of the connection, a string) and ``user`` (the Django user, or
``None``). Receivers run after the fact, in order, apart from delivery: one that raises or is slow delays no
message. Plain receivers run in a thread and may use the database; ``async def`` receivers run in the event loop.
"""

from django.dispatch import Signal

connected = Signal()
"""Take note that a connection was accepted."""

disconnected = Signal()
"""A connection has ended."""

subscribed = Signal()
"""Also with ``topic``; not sent when a client subscribes to what it is subscribed to."""

unsubscribed = Signal()
"""Also with ``topic``; not sent for the subscriptions that end with a connection."""

published = Signal()
"""Also with ``topic`` and ``message``, the published value. Sent for what clients of this process publish."""

peer_connected = Signal()
"""In the worker: a link to a peer has been made. With ``peer``, its name, and neither ``client`` nor ``user``."""

peer_disconnected = Signal()
"""In the worker: a link to a peer was lost. With ``peer``, its name, and neither ``client`` nor ``user``."""
