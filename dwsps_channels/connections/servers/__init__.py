"""The ASGI servers beneath a connection, as far as they let an application reach beyond ASGI."""
