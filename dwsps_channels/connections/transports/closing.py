"""The time that a client has once its connection is being closed."""

# To read what is still on its way, and to answer the close frame; then it is cut off.
CLOSE_TIMEOUT = 5.0
# The same for a client that does not read: what was queued for it is discarded.
SLOW_CLOSE_TIMEOUT = 1.0
# To read why it is rejected, if its handshake, its request or a frame was wrong; what it still sends is thrown away.
LINGER_TIMEOUT = 2.0


def close_timeout(*, discard: bool) -> float:
    """Return the seconds until a client is cut off; ``discard``: what was queued for it is not sent."""
    return SLOW_CLOSE_TIMEOUT if discard else CLOSE_TIMEOUT
