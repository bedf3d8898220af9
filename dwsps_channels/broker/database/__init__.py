"""A server of one process, with its log in the project's database."""
