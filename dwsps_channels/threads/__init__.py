"""Threads for blocking code, and their database connections."""
