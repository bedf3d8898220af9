"""Forwarding to other servers: what the worker does."""
