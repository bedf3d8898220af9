"""Reaching the server from a process that does not serve, in any thread or greenlet."""
