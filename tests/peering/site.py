"""A deployment of the project: a server, or two, with a database and workers of its own."""

import itertools
import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.processes import (
    HOST,
    Child,
    Redis,
    Server,
    ServerFactory,
    base_environment,
    free_port,
    manage,
)

SECRET = "a-secret-that-is-long-enough"

# A link that broke comes back soon, and a change of a row is noticed soon. A worker that is late by two seconds, on a machine
# with other things to do, keeps its lease.
QUICK = {
    "LINK_BACKOFF_BASE": 0.1,
    "LINK_BACKOFF_CAP": 1.0,
    "LEASE_TIMEOUT": 3.0,
    "LEASE_RENEW_INTERVAL": 0.5,
    "PEER_POLL_INTERVAL": 0.2,
}


class Worker(Child):
    """``manage.py runpubsub``. It listens on no port; it has started when it says what it does."""

    def _accepts(self) -> bool:
        if self.exit_status is not None:
            raise AssertionError(f"{self.name} ended with status {self.exit_status}")
        said = self.log[self._said_before :]
        return any(
            words in said
            for words in ("forwarding the publications", "standing by", "no peer to forward to")
        )

    def start(self) -> "Worker":
        self._said_before = len(self.log)
        return super().start()


class Site:
    """One server of the mesh: ``name`` is what it calls itself, ``timings`` what its ``TIMINGS`` are."""

    def __init__(
        self,
        name: str,
        folder: Path,
        migrated: Path,
        children: list[Child],
        timings: Mapping[str, float],
    ) -> None:
        self.name = name
        self.timings = timings
        self.folder = folder / name
        self.folder.mkdir()
        self.database = Path(shutil.copy(migrated, self.folder / "db.sqlite3"))
        self._children = children
        self._servers: list[Server] = []
        self.workers: list[Worker] = []
        self._numbers = itertools.count(1)
        self.factory = ServerFactory(self._servers, folder=self.folder, database=self.database)
        self.port = free_port()
        self.redis: Redis | None = None
        self.database_url = ""
        """Of the database in place of its own SQLite file."""
        self.dwsps: dict[str, object] = {}
        """The keys that its ``DWSPS`` has beyond name, URL and timings."""

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        environment = {"DWSPS_SERVER_NAME": self.name, "DWSPS_SERVER_URL": self.url}
        if self.redis is not None:
            environment["REDIS_URL"] = self.redis.url
        if self.database_url:
            environment["DATABASE_URL"] = self.database_url
        return environment

    def start_server(self, kind: str = "fastlane", port: int | None = None) -> Server:
        """Start a server process, the first one on the site's port."""
        server = self.factory(
            kind,
            port=port or self.port,
            env=self.environment,
            dwsps=self._dwsps,
        )
        self._children.append(server)
        return server

    def start_serving(self, port: int | None = None) -> Server:
        """Start a process that serves and forwards, the first one on the site's port."""
        port = port or self.port
        environment = base_environment(self.database) | self.environment
        server = Server(
            f"serve-{len(self._servers) + 1}",
            [sys.executable, "manage.py", "runpubsub", "--serve", f"{HOST}:{port}"],
            port=port,
            env=environment | {"TEST_DWSPS": json.dumps(self._dwsps)},
            folder=self.folder,
        )
        self._servers.append(server)
        self._children.append(server)
        return server.start()

    @property
    def _dwsps(self) -> dict[str, object]:
        return {"TIMINGS": dict(self.timings)} | self.dwsps

    @property
    def server(self) -> Server:
        return self._servers[0]

    def start_worker(self, *arguments: str) -> Worker:
        worker = Worker(
            f"worker-{self.name}-{next(self._numbers)}",
            [sys.executable, "manage.py", "runpubsub", *arguments],
            port=0,
            env=self.server.env,
            folder=self.folder,
        )
        self._children.append(worker)
        self.workers.append(worker)
        return worker.start()

    def add_peer(self, name: str, url: str, *flags: str, secret: str | None = None) -> None:
        """Add a row, with a secret that both sides of a pair derive from ``name`` if none is given."""
        path = self.folder / "secret"
        path.write_text(secret or SECRET)
        manage("peers", "add", name, url, "--secret-file", str(path), *flags, env=self._env)

    def remove_peers(self) -> None:
        """Remove all peers, whoever has added them."""
        with closing(sqlite3.connect(self.database, timeout=10)) as database:
            found = database.execute("SELECT name FROM dwsps_channels_peer").fetchall()
        if found:
            self.peers("remove", *(name for [name] in found))

    def end_workers(self) -> None:
        """Have the workers end, so that the next one need not wait for a lease."""
        for worker in self.workers:
            if worker.exit_status is None:
                worker.terminate()
        self.workers.clear()

    def peers(self, *arguments: str) -> str:
        """Run ``manage.py peers``."""
        return manage("peers", *arguments, env=self._env)

    def peer(self, name: str) -> dict[str, Any]:
        """Return the worker's status of this peer; empty: none yet."""
        return self._row("dwsps_channels_peerstatus", name)

    def inbound(self, name: str) -> dict[str, Any]:
        """Return what this server's only process reports of this peer; empty: nothing yet."""
        return self._row("dwsps_channels_peerinbound", name)

    def _row(self, table: str, peer: str) -> dict[str, Any]:
        # Past Django: a process for each look would be most of what these tests cost.
        with closing(sqlite3.connect(self.database, timeout=10)) as database:
            database.row_factory = sqlite3.Row
            row = database.execute(
                f"SELECT found.* FROM {table} found "
                "JOIN dwsps_channels_peer peer ON peer.id = found.peer_id WHERE peer.name = ?",
                [peer],
            ).fetchone()
        return dict(row or {})

    @property
    def _env(self) -> dict[str, str]:
        return self.server.env


def id_of(server: Server) -> str:
    """The id of the server of this process, as its database has it; it gets one if it has none."""
    own_id = uuid4().hex
    with closing(
        sqlite3.connect(server.env["DATABASE_URL"].removeprefix("sqlite:///"))
    ) as database:
        database.execute(
            "INSERT OR IGNORE INTO dwsps_channels_serveridentity (id, server_id) VALUES (1, ?)",
            [own_id],
        )
        database.commit()
        [found] = database.execute("SELECT server_id FROM dwsps_channels_serveridentity").fetchone()
    return str(found)


@contextmanager
def sites(
    folder: Path, migrated: Path, *names: str, timings: Mapping[str, float] = QUICK
) -> Iterator[list[Site]]:
    """Sites without processes yet; whatever is started of them is ended."""
    children: list[Child] = []
    try:
        yield [Site(name, folder, migrated, children, timings) for name in names]
    finally:
        for child in children:
            child.close()
