"""docs/how-to/docker-compose.md: what its image and its services run, without Docker, against real services."""

import json
import re
import shlex
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from dwsps_channels.peering import worker
from dwsps_channels.server import runtime, serving
from tests.howto.conftest import MakeProject
from tests.howto.nginx import start_nginx
from tests.howto.pages import Page
from tests.howto.project import POPULATE, Program, Project, resolve, run
from tests.processes import (
    HOST,
    ROOT,
    Postgres,
    Redis,
    free_port,
    postgres_server,
    require,
    wait_until,
)

pytestmark = pytest.mark.processes

FORWARDS = "forwarding the publications"
STANDS_BY = "standing by"

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


@pytest.fixture(scope="module")
def page() -> Page:
    return Page.read("docker-compose")


@pytest.fixture(scope="module")
def dot_env(page: Page, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the `.env` that the page's command writes."""
    require("openssl")
    folder = tmp_path_factory.mktemp("env")
    [command] = [command for command in page.commands if command.endswith("> .env")]
    run("sh", "-c", command, folder=folder)
    lines = (folder / ".env").read_text().splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture(scope="module")
def services(page: Page, dot_env: dict[str, str]) -> dict[str, Any]:
    """The services, with the values of `.env` in them, as Compose has them."""
    text = VARIABLE.sub(
        lambda found: dot_env.get(found["name"], found["rest"]), page.files["compose.yaml"]
    )
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def instructions(page: Page, name: str) -> list[str]:
    """The arguments of each instruction of the Dockerfile that has this name."""
    return re.findall(rf"^{name} (.+)$", page.files["Dockerfile"], re.MULTILINE)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    with Postgres.all_closed() as servers:
        servers.append(postgres_server(tmp_path))
        yield servers[0].start()


class Containers:
    """Starts what the services run, with their environment, but on loopback and with the test's database and Redis."""

    def __init__(
        self, project: Project, services: dict[str, Any], postgres: Postgres, redis: Redis
    ) -> None:
        self.project = project
        self.services = services
        self._moved = {
            "ALLOWED_HOSTS": f"{services['web']['environment']['ALLOWED_HOSTS']},{HOST}",
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
        }

    def _environment(self, service: str) -> dict[str, str]:
        return {**self.services[service]["environment"], **self._moved}

    def run(self, service: str, *command: str) -> str:
        return run(*command, folder=self.project.folder, env=self._environment(service))

    def start(self, service: str, command: list[str], port: int) -> Program:
        variables = self._environment(service)
        return self.project.start_program(resolve(command), port=port, env=variables)


def test_requirements_are_those_that_the_tests_run_with(page: Page) -> None:
    links, *lines = page.files["requirements.txt"].splitlines()
    assert links == f"--find-links {page.command('pip wheel')[-2]}"
    requirements = {found.name: found for found in map(Requirement, lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = requirements.pop(project["name"])
    assert ours.extras <= project["optional-dependencies"].keys()
    for name, requirement in requirements.items():
        assert version(name) in requirement.specifier


def test_variables_are_those_that_something_reads(
    page: Page, services: dict[str, Any], dot_env: dict[str, str]
) -> None:
    settings = set(re.findall(r'os\.environ\["(\w+)"]', page.files["myproject/settings.py"]))
    environment = services["web"]["environment"]
    # DATABASE_URL is what dj_database_url reads, FORWARDED_ALLOW_IPS what uvicorn does.
    assert environment.keys() == settings | {"DATABASE_URL", "FORWARDED_ALLOW_IPS"}
    [collect] = [line for line in instructions(page, "RUN") if "collectstatic" in line]
    assert set(re.findall(r"([A-Z_]+)=", collect)) == settings
    used = {found["name"] for found in VARIABLE.finditer(page.files["compose.yaml"])}
    assert used == dot_env.keys() | {"ALLOWED_HOSTS"}
    # A password is safe in a URL, and nothing begins a variable.
    assert all(len(value) >= 32 and value.isalnum() for value in dot_env.values())


def test_services_find_each_other(page: Page, services: dict[str, Any]) -> None:
    environment = services["web"]["environment"]
    database = urlsplit(environment["DATABASE_URL"])
    told = services["postgres"]["environment"]
    assert (database.hostname, database.port) == ("postgres", 5432)
    assert database.username == told["POSTGRES_USER"]
    assert database.password == told["POSTGRES_PASSWORD"]
    assert database.path == f"/{told['POSTGRES_DB']}"
    assert environment["REDIS_URL"] == "redis://redis:6379/0"
    for service in services.values():
        for name, needed in service.get("depends_on", {}).items():
            if needed["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert needed == {"condition": "service_completed_successfully"}
                assert "restart" not in services[name]
    assert "set $web http://web:8000;" in page.files["nginx.conf"]
    [volume] = services["nginx"]["volumes"]
    assert volume.split(":")[0] == "./nginx.conf"


def test_containers_get_the_time_that_a_process_takes_to_end(
    page: Page, services: dict[str, Any]
) -> None:
    serving_ends = runtime.DRAIN_GRACE + serving.REQUEST_GRACE
    working_ends = worker.FLUSH_GRACE + worker.SIGNALS_GRACE
    assert int(services["web"]["stop_grace_period"].removesuffix("s")) > serving_ends + working_ends
    assert instructions(page, "STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(instructions(page, "CMD")[0])[0] == "python"


def test_two_web_processes_are_one_server_with_one_worker(
    page: Page,
    services: dict[str, Any],
    make_project: MakeProject,
    postgres: Postgres,
    redis: Redis,
) -> None:
    project = make_project("docker-compose")
    containers = Containers(project, services, postgres, redis)
    [collect] = [line for line in instructions(page, "RUN") if "collectstatic" in line]
    run("sh", "-c", collect.replace("python", sys.executable), folder=project.folder)
    containers.run("migrate", *services["migrate"]["command"])
    manage = ("python", "manage.py")
    users = containers.run("web", *manage, "shell", "-v", "0", "-c", POPULATE).split()
    # Where nobody listens: the worker goes on trying.
    nobody = f"ws://{HOST}:{free_port()}/ws/pubsub/"
    containers.run("web", *manage, "peers", "add", "paris", nobody, "--generate")

    command = json.loads(instructions(page, "CMD")[0])
    assert command[-1] == "0.0.0.0:8000"
    ports = [free_port(), free_port()]
    web = [containers.start("web", [*command[:-1], f"{HOST}:{port}"], port=port) for port in ports]
    check = services["web"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    for port in ports:
        containers.run("web", *(word.replace("8000", str(port)) for word in check[1:]))

    # One forwards, the other stands by.
    wait_until(lambda: sum(STANDS_BY in each.log for each in web) == 1, 20.0, "one stands by")
    wait_until(lambda: sum(FORWARDS in each.log for each in web) == 1, 20.0, "one forwards")
    [active] = [each for each in web if FORWARDS in each.log]
    [standby] = [each for each in web if each is not active]
    assert STANDS_BY in standby.log

    # By nginx and directly, a user hears what a process that serves nothing publishes.
    proxy = free_port()
    site = page.files["nginx.conf"].replace("listen 80;", f"listen {HOST}:{proxy};")
    start_nginx(project, site.replace("http://web:8000", f"http://{HOST}:{standby.port}"), proxy)
    with urllib.request.urlopen(f"http://{HOST}:{proxy}/static/dwsps_channels/dwsps.js") as file:
        assert b"PSClient" in file.read()
    cookie = {"Cookie": f"sessionid={users[0]}"}
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(
                connect(
                    f"ws://{HOST}:{port}/ws/pubsub/",
                    origin=Origin(f"http://{HOST}:{port}"),
                    additional_headers=cookie,
                    proxy=None,
                )
            )
            for port in (proxy, active.port)
        ]
        for socket in sockets:
            socket.send(json.dumps({"type": "subscribe", "topic": "news"}))
            assert json.loads(socket.recv(timeout=20))["type"] == "ack"
        [publish] = [line for line in page.commands if "publish(" in line]
        containers.run("web", *shlex.split(publish.partition(" exec web ")[2]))
        for socket in sockets:
            assert json.loads(socket.recv(timeout=20))["message"] == "Hello"

    # Somebody who sends a credential in the URL, and finds it in no log.
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{HOST}:{proxy}/ws/pubsub/?token=a-secret", proxy=None)
    log = project.folder / "access.log"
    wait_until(lambda: '"GET /ws/pubsub/ HTTP/1.1" 403' in log.read_text(), what="a line")
    assert "a-secret" not in log.read_text()

    # What `docker compose stop` sends.
    assert active.terminate() == 0
    wait_until(lambda: FORWARDS in standby.log, 20.0, "the other forwards")
    assert standby.terminate() == 0
