"""The running server: the composition root, serving, and shutdown."""
