"""A configuration of gunicorn for gevent with --preload: without it Django is loaded before it is patched."""

from gevent import monkey

monkey.patch_all()
