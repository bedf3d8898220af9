"""Rechecks of thousands of clients, and what others notice of them: ``python -m benchmarks.rechecks``."""
