"""Brokers: how the processes of one server reach each other."""
