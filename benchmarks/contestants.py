"""The contestants: how each is started, its protocol, and the programs that it needs."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import BUILD, HERE, HOST, ROOT
from benchmarks.generator import COMPILER, Target
from benchmarks.loads import Load
from benchmarks.postgres import postgres
from benchmarks.postgres import program as postgres_program
from benchmarks.processes import START_TIMEOUT, Cores, Failure, Server, free_port

RIVALS = HERE / "rivals"
NODE_MODULES = HERE / "node_modules"
# Theirs alone; ours is that which runs the benchmarks.
RIVALS_BIN = HERE / ".venv" / "bin"
OUR_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Contestant:
    """A server. In ``command`` and ``template``, {port} and its like stand for what ``started`` knows."""

    name: str
    title: str
    command: tuple[str, ...]
    description: str
    """A description, for the report."""
    adapter: str = "dwsps"
    path: str = "/"
    ours: bool = False
    processes: int = 1
    """If more than one, the server consists of them and Redis, and gets the loads that go across."""
    stream: bool = False
    """True if it needs a stream of JetStream's, which listens on {spare_port}."""
    recovers: bool = False
    """True if a client that comes back can have what it missed."""
    acknowledges: bool = False
    """True if it takes part in what compares the brokers: acknowledged messages."""
    on_redis: bool = False
    on_postgres: bool = False
    env: tuple[tuple[str, str], ...] = ()
    """Names and values beyond what ``environment`` has."""
    template: Path | None = None
    """A configuration file; {config} is where it is."""
    programs: tuple[str, ...] = ()
    node_modules: tuple[str, ...] = ()
    rivals_modules: tuple[str, ...] = ()
    our_modules: tuple[str, ...] = ()
    yardstick: bool = False
    """No rival: it shows the most that a server can have on this machine, and that the generator takes as much."""
    only: tuple[str, ...] = ()
    """The loads that it gets; empty: all."""

    def takes(self, load: Load) -> bool:
        if self.only:
            return load.name in self.only
        if load.kind == "recovery" and not self.recovers:
            return False
        if load.kind == "acknowledged":
            return self.acknowledges
        return load.is_across == (self.processes > 1)

    def missing(self) -> str | None:
        """Return the program that is missing; ``None``: it can start."""
        programs = (*self.programs, *(["redis-server"] if self.on_redis else []))
        for program in programs:
            if shutil.which(program) is None:
                return f"{program} is not installed"
        if self.on_postgres and postgres_program("postgres") is None:
            return "postgres is not installed"
        for module in self.node_modules:
            if not (NODE_MODULES / module).is_dir():
                return f"the npm package {module} is not installed"
        for module in self.rivals_modules:
            if not _importable_by_rivals(module):
                return f"the Python package {module} is not installed"
        for module in self.our_modules:
            if not _importable(module):
                return f"{module} is not there"
        return None


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of what it is in
        return False


def _importable_by_rivals(module: str) -> bool:
    python = RIVALS_BIN / "python"
    return (
        python.exists()
        and subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0
    )


@dataclass(frozen=True)
class Running:
    """A contestant that was started."""

    server: Server
    """Its process, the first of several."""
    target: Target
    core: int | None
    """For the generator; ``None``: any."""


@contextmanager
def started(contestant: Contestant, cores: Cores, folder: Path) -> Iterator[Running]:
    """Start the contestant and what it needs, and stop them afterwards.

    A server of one process has a core for itself. Several processes share all cores with the generator.

    Raises:
        Failure: it did not start; says why.
    """
    env = environment(folder) | dict(contestant.env)
    several = contestant.processes > 1
    port = free_port()
    values = {
        "port": str(port),
        "spare_port": str(free_port()),
        "our_bin": str(OUR_BIN),
        "rivals_bin": str(RIVALS_BIN),
        "rivals": str(RIVALS),
        "build": str(BUILD),
        "folder": str(folder),
        "config": str(folder / f"{contestant.name}.conf"),
    }
    if contestant.template is not None:
        Path(values["config"]).write_text(contestant.template.read_text().format(**values))
    with ExitStack() as stack:
        helpers = []
        publish_port = None
        if contestant.on_redis:
            core = None if several else cores.generator
            redis, env["REDIS_URL"] = _start_redis(core, folder)
            stack.callback(redis.stop)
            helpers.append(redis.pid)
        if contestant.on_postgres:
            log = folder / "postgres.log"
            env["DATABASE_URL"] = stack.enter_context(postgres(cores.generator, log))
            _migrate(env)
        servers = []
        for number in range(contestant.processes):
            if number:
                publish_port = free_port()
                values["port"] = str(publish_port)
            server = Server(
                [word.format(**values) for word in contestant.command],
                port=int(values["port"]),
                env=env,
                core=None if several else cores.server,
                log=folder / f"{contestant.name}-{number}.log",
            )
            stack.callback(server.stop)
            servers.append(server)
        if contestant.stream:
            _make_stream(int(values["spare_port"]))
        pids = [*(server.pid for server in servers), *helpers]
        target = Target(contestant.adapter, port, contestant.path, pids, publish_port)
        yield Running(servers[0], target, None if several else cores.generator)


def _start_redis(core: int | None, folder: Path) -> tuple[Server, str]:
    # Beside the generator, which has little to do with so slow a contestant, rather than at the expense of the
    # server: it would have a machine of its own.
    port = free_port()
    server = Server(
        ["redis-server", "--port", str(port), "--bind", HOST, "--save", ""],
        port=port,
        env=environment(folder),
        core=core,
        log=folder / "redis.log",
    )
    return server, f"redis://{HOST}:{port}"


def _make_stream(port: int) -> None:
    # As benchmarks/generator/adapters/jetstream.c wants it: topics have two levels, and answers three.
    config = {"name": "S", "subjects": ["*.*"], "storage": "memory", "retention": "limits"}
    content = json.dumps(config).encode()
    with socket.create_connection((HOST, port), timeout=START_TIMEOUT) as connection:
        lines = connection.makefile("rwb")
        lines.write(b'CONNECT {"verbose":false}\r\nSUB _R.made.x 1\r\n')
        lines.write(b"PUB $JS.API.STREAM.CREATE.S _R.made.x %d\r\n%s\r\n" % (len(content), content))
        lines.flush()
        for line in lines:
            if line.startswith(b"{"):
                if b"error" in line:
                    raise Failure(f"no stream: {line.decode()}")
                return


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of every server: the demo project as it is deployed, its database in ``folder``."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "SECRET_KEY": "0123456789abcdef" * 4,
        "ALLOWED_HOSTS": HOST,
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        "NODE_ENV": "production",
    }


def prepare(folder: Path) -> None:
    """Make the database of the demo project."""
    _migrate(environment(folder))


def _migrate(env: dict[str, str]) -> None:
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0", "--skip-checks"]
    subprocess.run(command, cwd=ROOT, env=env, check=True)


_DAPHNE = ("{our_bin}/daphne", "-v", "0", "-b", HOST, "-p", "{port}")
_UVICORN = (
    "uvicorn",
    "--no-access-log",
    "--log-level",
    "warning",
    "--host",
    HOST,
    "--port",
    "{port}",
)
_OUR_UVICORN = (f"{{our_bin}}/{_UVICORN[0]}", *_UVICORN[1:])
_THEIR_UVICORN = (f"{{rivals_bin}}/{_UVICORN[0]}", *_UVICORN[1:])
_FASTLANE = (
    "--ws",
    "dwsps_channels.fastlane:Protocol",
    "--loop",
    "dwsps_channels.fastlane:new_loop",
)


def _two(name: str, title: str, description: str, layer: str | None = None) -> Contestant:
    """Return a server of two processes on Redis; ``layer``: the channel layer that joins them."""
    env: tuple[tuple[str, str], ...] = ()
    if layer is not None:
        env = (("BENCHMARK_BROKER", "ChannelLayerBackend"), ("BENCHMARK_LAYER", layer))
    return Contestant(
        name=name,
        title=title,
        description=description,
        command=(*_OUR_UVICORN, *_FASTLANE, "project.asgi:application"),
        ours=layer is None,
        processes=2,
        on_redis=True,
        env=env,
        our_modules=("dwsps_channels.fastlane", "uvicorn", "uvloop", "httptools", "channels_redis"),
    )


def _on(name: str, title: str, description: str, backend: str, needs: str = "") -> Contestant:
    """Return the fast lane on another broker than that in memory; ``needs``: a module of ours besides."""
    modules = ("dwsps_channels.fastlane", "uvicorn", "uvloop", "httptools")
    return Contestant(
        name=name,
        title=title,
        description=description,
        command=(*_OUR_UVICORN, *_FASTLANE, "project.asgi:application"),
        ours=True,
        acknowledges=True,
        on_redis=backend == "RedisBackend",
        on_postgres=needs == "psycopg",
        env=(("BENCHMARK_BROKER", backend),),
        our_modules=(*modules, needs) if needs else modules,
        only=("acks-1", "acks-50"),
    )


CONTESTANTS = [
    Contestant(
        name="fastlane",
        title="dwsps, fast lane",
        description="the demo project on uvicorn with the websocket protocol of `dwsps_channels.fastlane`",
        command=(*_OUR_UVICORN, *_FASTLANE, "project.asgi:application"),
        ours=True,
        recovers=True,
        acknowledges=True,
        our_modules=("dwsps_channels.fastlane", "uvicorn", "uvloop", "httptools"),
    ),
    Contestant(
        name="uvicorn",
        title="dwsps, uvicorn",
        description="the demo project on plain uvicorn",
        command=(*_OUR_UVICORN, "project.asgi:application"),
        ours=True,
        recovers=True,
        our_modules=("uvicorn", "websockets"),
    ),
    Contestant(
        name="daphne",
        title="dwsps, Daphne",
        description="the demo project on Daphne",
        command=(*_DAPHNE, "project.asgi:application"),
        ours=True,
        recovers=True,
        our_modules=("daphne",),
    ),
    Contestant(
        name="uwebsockets",
        title="uWebSockets",
        description="uWebSockets (C++) through socketify, with its own publish and subscribe; "
        "Python reads and writes the JSON, once a publish",
        command=("{rivals_bin}/python", "-m", "benchmarks.rivals.uwebsockets_server", "{port}"),
        rivals_modules=("socketify",),
    ),
    Contestant(
        name="nats",
        title="nats-server",
        description="nats-server (Go) over its websocket, in its own protocol, its wildcards for levels",
        command=("nats-server", "-c", "{config}"),
        adapter="nats",
        template=RIVALS / "nats.conf",
        programs=("nats-server",),
    ),
    Contestant(
        name="jetstream",
        title="nats-server, JetStream",
        description="the same with its log: a client that comes back makes a consumer for each topic, from the last "
        "sequence number that it knows",
        command=("nats-server", "-c", "{config}"),
        adapter="jetstream",
        template=RIVALS / "jetstream.conf",
        stream=True,
        recovers=True,
        programs=("nats-server",),
        only=("recovery",),
    ),
    Contestant(
        name="ws",
        title="Node ws",
        description="a broadcast server on `ws` that delivers as dwsps 1.0.1 does: it scans all clients "
        "and encodes the JSON for each",
        command=("node", "{rivals}/ws_server.mjs", "{port}"),
        programs=("node",),
        node_modules=("ws",),
    ),
    Contestant(
        name="socketio",
        title="socket.io",
        description="socket.io with rooms, over its websocket from the start, in its own protocol",
        command=("node", "{rivals}/socketio_server.mjs", "{port}"),
        adapter="socketio",
        path="/socket.io/?EIO=4&transport=websocket",
        programs=("node",),
        node_modules=("socket.io",),
    ),
    Contestant(
        name="bare-daphne",
        title="bare ASGI, Daphne",
        description="an ASGI application on Daphne that only broadcasts: "
        "the most that Daphne allows",
        command=(*_DAPHNE, "benchmarks.rivals.bare_asgi:application"),
        our_modules=("daphne",),
    ),
    Contestant(
        name="group-send",
        title="group_send, Daphne",
        description="a plain Channels consumer on Daphne, a group for each topic, "
        "the channel layer in memory",
        command=(*_DAPHNE, "benchmarks.rivals.group_send:application"),
        our_modules=("daphne",),
    ),
    Contestant(
        name="group-send-redis",
        title="group_send, Daphne, Redis",
        description="the same on Redis, which runs on the generator's core",
        command=(*_DAPHNE, "benchmarks.rivals.group_send:application"),
        on_redis=True,
        our_modules=("daphne", "channels_redis"),
    ),
    Contestant(
        name="fastapi-pubsub",
        title="fastapi-websocket-pubsub",
        description="as its documentation shows it, on uvicorn, in its own protocol",
        command=(*_THEIR_UVICORN, "benchmarks.rivals.fastapi_pubsub:application"),
        adapter="fastapi_pubsub",
        path="/pubsub",
        rivals_modules=("fastapi_websocket_pubsub", "uvicorn"),
    ),
    Contestant(
        name="ceiling",
        title="a C server that does nothing else",
        description="a yardstick, no rival: it does only what the protocol requires for subscribing and publishing, with one "
        "write for each connection and loop iteration, trusts its client, and has no levels",
        command=("{build}/ceiling", "{port}"),
        programs=(COMPILER,),
        yardstick=True,
        only=(
            "fan-100-8",
            "fan-100-1",
            "fan-1000-8",
            "fan-1000-1",
            "pairs-50",
            "pairs-500",
            "fan-100-8-each",
            "fan-100-8-4k",
        ),
    ),
    _on(
        "on-sqlite",
        "dwsps, database (SQLite)",
        "the fast lane on the database broker, with its log in SQLite",
        "DatabaseBackend",
    ),
    _on(
        "on-postgres",
        "dwsps, database (PostgreSQL)",
        "the same with its log in PostgreSQL, which runs on the generator's core",
        "DatabaseBackend",
        needs="psycopg",
    ),
    _on(
        "on-redis",
        "dwsps, Redis",
        "the fast lane, one process, on Redis, which runs on the generator's core and keeps nothing on disk",
        "RedisBackend",
        needs="channels_redis",
    ),
    _two("two-redis", "two processes, Redis", "two processes of the fast lane, on Redis"),
    _two(
        "two-layer",
        "two processes, channel layer",
        "the same, joined by the channel layer of channels-redis, without a log",
        layer="channels_redis.core.RedisChannelLayer",
    ),
    _two(
        "two-layer-pubsub",
        "two processes, pub/sub channel layer",
        "the same on its layer over Redis pub/sub",
        layer="channels_redis.pubsub.RedisPubSubChannelLayer",
    ),
]
