"""docs/how-to/kubernetes.md: its files are valid, and say what the processes in the pods need; the worker apart runs."""

import re
import signal
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from dwsps_channels.peering import worker
from dwsps_channels.server import runtime, serving
from tests.howto.conftest import MakeProject
from tests.howto.pages import Page
from tests.howto.project import Program, resolve, run
from tests.processes import HOST, Redis, free_port, wait_until

# What the page says that it is valid for.
VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36")
PATCH = "k8s/without-worker.yaml"
HEALTH = {"path": "/health/", "port": "http"}


@pytest.fixture(scope="module")
def page() -> Page:
    return Page.read("kubernetes")


@pytest.fixture(scope="module")
def project_page() -> Page:
    """The page that has the image and the settings."""
    return Page.read("docker-compose")


@pytest.fixture(scope="module")
def objects(page: Page) -> dict[tuple[str, str], Any]:
    """All objects of the page, by kind and name."""
    found = [
        each
        for path, text in page.files.items()
        if path != PATCH
        for each in yaml.safe_load_all(text)
    ]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pods(objects: dict[tuple[str, str], Any]) -> Iterator[tuple[str, Any]]:
    """The name and the pods' specification of each Deployment and Job."""
    for (kind, name), each in objects.items():
        if kind in ("Deployment", "Job"):
            yield name, each["spec"]["template"]["spec"]


def container(objects: dict[tuple[str, str], Any], kind: str, name: str) -> Any:
    [only] = objects[kind, name]["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_objects_are_valid(objects: dict[tuple[str, str], Any], kubernetes: str) -> None:
    for each in objects.values():
        kubernetes_validate.validate(each, kubernetes, strict=True)


def test_page_names_the_versions(page: Page) -> None:
    assert f"valid for Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}," in " ".join(page.text.split())


def test_patched_deployment_is_valid(page: Page, objects: dict[tuple[str, str], Any]) -> None:
    [patch] = yaml.safe_load(page.files[PATCH])["spec"]["template"]["spec"]["containers"]
    web = yaml.safe_load(yaml.safe_dump(objects["Deployment", "web"]))
    [patched] = web["spec"]["template"]["spec"]["containers"]
    assert patch["name"] == patched["name"]
    patched.update(patch)
    for kubernetes in VERSIONS:
        kubernetes_validate.validate(web, kubernetes, strict=True)


def test_names_lead_somewhere(page: Page, objects: dict[tuple[str, str], Any]) -> None:
    labels = {}
    for (kind, name), each in objects.items():
        if kind == "Deployment":
            labels[name] = each["spec"]["template"]["metadata"]["labels"]
            assert each["spec"]["selector"]["matchLabels"] == labels[name]
    for name in ("web", "redis"):
        service = objects["Service", name]["spec"]
        assert service["selector"] == labels[name]
        [port] = container(objects, "Deployment", name)["ports"]
        assert service["ports"] == [
            {"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]}
        ]
    budget = objects["PodDisruptionBudget", "web"]["spec"]
    assert budget["selector"]["matchLabels"] == labels["web"]

    ingress = objects["Ingress", "myproject"]["spec"]
    [rule] = ingress["rules"]
    [path] = rule["http"]["paths"]
    assert path["backend"] == {"service": {"name": "web", "port": {"name": "http"}}}
    [tls] = ingress["tls"]
    assert tls["hosts"] == [rule["host"]]
    assert page.command("kubectl create secret tls")[4] == tls["secretName"]
    assert objects["ConfigMap", "myproject"]["data"]["ALLOWED_HOSTS"] == rule["host"]

    written = {word for command in page.commands for word in re.findall(r"k8s/\S+", command)}
    assert written == set(page.files)


def test_variables_are_those_that_the_settings_read(
    page: Page, project_page: Page, objects: dict[tuple[str, str], Any]
) -> None:
    settings = project_page.files["myproject/settings.py"]
    read = set(re.findall(r'os\.environ\["(\w+)"]', settings)) | {"DATABASE_URL"}
    config = objects["ConfigMap", "myproject"]["data"]
    secret = page.command("kubectl create secret generic")
    secrets = {word.partition("=")[2].partition("=")[0] for word in secret if "=" in word}
    # uvicorn reads the last one, and knows networks.
    assert config.keys() | secrets == read | {"FORWARDED_ALLOW_IPS"}
    trusted = ProxyHeadersMiddleware(lambda *_: None, config["FORWARDED_ALLOW_IPS"]).trusted_hosts  # type: ignore[arg-type]
    assert "10.1.2.3" in trusted
    assert "192.0.2.7" not in trusted
    assert not config.keys() & secrets
    for name, spec in pods(objects):
        for each in spec["containers"]:
            if name != "redis":
                assert each["image"] in page.command("docker push")
                assert each["envFrom"] == [
                    {"configMapRef": {"name": "myproject"}},
                    {"secretRef": {"name": secret[4]}},
                ]


def test_pods_get_the_time_that_their_processes_take_to_end(
    objects: dict[tuple[str, str], Any],
) -> None:
    serving_ends = runtime.DRAIN_GRACE + serving.REQUEST_GRACE
    working_ends = worker.FLUSH_GRACE + worker.SIGNALS_GRACE
    grace = {name: spec.get("terminationGracePeriodSeconds") for name, spec in pods(objects)}
    sleep, pause = container(objects, "Deployment", "web")["lifecycle"]["preStop"]["exec"][
        "command"
    ]
    assert sleep == "sleep"
    assert grace["web"] > int(pause) + serving_ends + working_ends
    assert grace["worker"] > working_ends


def test_probes_ask_for_the_health_check(
    project_page: Page, objects: dict[tuple[str, str], Any]
) -> None:
    web = container(objects, "Deployment", "web")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert web[probe]["httpGet"] == HEALTH
    assert f'scope["path"] != "{HEALTH["path"]}"' in project_page.files["myproject/health.py"]


def test_worker_apart_forwards_what_web_without_one_publishes(
    page: Page,
    project_page: Page,
    objects: dict[tuple[str, str], Any],
    make_project: MakeProject,
    redis: Redis,
) -> None:
    project = make_project("kubernetes")
    for path in ("myproject/settings.py", "myproject/health.py", "myproject/asgi.py"):
        project.write(path, project_page.files[path], append=path in project_page.appended)
    variables = objects["ConfigMap", "myproject"]["data"] | {
        "SECRET_KEY": "k" * 64,
        "ALLOWED_HOSTS": HOST,
        "REDIS_URL": redis.url,
    }

    def manage(*arguments: str) -> str:
        return run("python", "manage.py", *arguments, folder=project.folder, env=variables)

    def start(port: int, *command: str, ready: str = "") -> Program:
        return project.start_program(resolve(command), port=port, env=variables, ready=ready)

    nobody = f"ws://{HOST}:{free_port()}/ws/pubsub/"
    manage("peers", "add", "paris", nobody, "--generate")

    port = free_port()
    [patch] = yaml.safe_load(page.files[PATCH])["spec"]["template"]["spec"]["containers"]
    placed = {"--host=0.0.0.0": f"--host={HOST}", "--port=8000": f"--port={port}"}
    assert placed.keys() <= set(patch["command"])
    web = start(port, *(placed.get(word, word) for word in patch["command"]))
    apart = start(
        port,
        *container(objects, "Deployment", "worker")["command"],
        ready="forwarding the publications of this server, read from RedisBackend",
    )
    publish = "from dwsps_channels import publish; publish('news', 'Hello')"
    manage("shell", "-c", publish)

    def waits() -> bool:
        [peer] = yaml.safe_load(manage("peers", "list", "--json"))
        return bool(peer["lag"] == 1)

    wait_until(waits, 20.0, "the worker has the message for the peer")
    assert apart.terminate() == 0
    # No websocket came to it: uvicorn then ends by the signal itself.
    assert web.terminate() == -signal.SIGTERM
