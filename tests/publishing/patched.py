"""What gunicorn's configuration needs where gevent goes with --preload: else Django is loaded before it is patched."""

from gevent import monkey

monkey.patch_all()
