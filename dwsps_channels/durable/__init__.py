"""Durable messages that their process did not get published: the worker's part, and a look at them for operators."""
