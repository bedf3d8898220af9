"""The rows of peers, and who may come in as one."""
