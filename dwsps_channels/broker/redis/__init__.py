"""The broker over Redis: a log in a stream, and a script that keeps it."""
