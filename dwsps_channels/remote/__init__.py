"""Publishing from a process that serves nothing: a task queue's worker, a shell, cron, a WSGI server."""
