"""The server without its I/O: no Django, no asyncio, no sockets. Imports only itself and msgspec."""
