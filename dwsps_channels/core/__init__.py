"""The engine: hub, sessions and contracts. No Django, no asyncio, no sockets."""
