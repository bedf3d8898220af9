"""The tests of the JavaScript client in tests/js, run by Node, and what ties its package to the app."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

import dwsps_channels
from dwsps_channels.protocol.errors import WireError
from tests.processes import ROOT, Server, ServerFactory, missing, require

FOLDER = ROOT / "tests" / "js"
FILES = sorted(FOLDER.glob("*.test.mjs"))
AGAINST_A_SERVER = FOLDER / "e2e.test.mjs"
AGAINST_A_LIMIT = FOLDER / "limited.test.mjs"
AGAINST_RIGHTS = FOLDER / "access-e2e.test.mjs"
PACKAGE = ROOT / "dwsps_channels" / "static" / "dwsps_channels"
PARTS = PACKAGE / f"client-{dwsps_channels.__version__}"

OLDEST_NODE = (20, 19)


@pytest.fixture(scope="module")
def server_kind() -> str:
    """One kind suffices: the client sees the same of each, as tests/wire shows."""
    return "fastlane"


@pytest.fixture(scope="module")
def node() -> str:
    """The path of a Node that is new enough, with the packages that the tests need in place."""
    path = require("node")
    version = subprocess.check_output([path, "--version"], text=True)
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_NODE:
        wanted = ".".join(map(str, OLDEST_NODE))
        missing(f"node is {version.strip()}, and the tests need {wanted} or newer")
    if not (FOLDER / "node_modules").exists():
        missing("tests/js has no node_modules: `make test` installs them")
    return path


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file not in (AGAINST_A_SERVER, AGAINST_A_LIMIT, AGAINST_RIGHTS)],
    ids=lambda file: file.stem,
)
def test_passes(node: str, file: Path) -> None:
    run(node, file)


def test_passes_against_a_real_server(node: str, server: Server) -> None:
    run(node, AGAINST_A_SERVER, DWSPS_URL=server.url)


def test_passes_against_a_rate_limit(node: str, start_server: ServerFactory) -> None:
    limit = {"RATE_LIMIT": 50, "RATE_BURST": 50}
    run(node, AGAINST_A_LIMIT, DWSPS_LIMITED_URL=start_server("fastlane", dwsps=limit).url)


CREDENTIALS = """
import json
from datetime import timedelta
from django.contrib.auth.models import User
from dwsps_channels.grants import make_grant
from dwsps_channels.tokens import make_token

ann = User.objects.create_user("ann", password="secret")
print(json.dumps({
    "short": [make_token(ann, expires=timedelta(seconds=seconds)) for seconds in (10, 12)],
    "long": make_token(ann),
    "grant": make_grant("orders.42", user=ann),
}))
"""


def test_passes_with_tokens_and_grants_of_a_real_server(
    node: str, start_server: ServerFactory
) -> None:
    rights = {
        "AUTHENTICATOR": "dwsps_channels.tokens.SignedToken",
        "POLICY": "tests.wire.policies.Members",
    }
    server = start_server("fastlane", dwsps=rights)
    credentials = server.manage("shell", "-v", "0", "-c", CREDENTIALS)
    run(node, AGAINST_RIGHTS, DWSPS_ACCESS_URL=server.url, DWSPS_CREDENTIALS=credentials)


def test_types_name_every_error_code_of_the_server() -> None:
    declared = (
        (PACKAGE / "dwsps.d.ts")
        .read_text()
        .partition("export type ServerErrorCode =")[2]
        .partition("\n\n")[0]
    )
    assert sorted(re.findall(r"'(\w+)'", declared)) == sorted(
        error.code for error in WireError.__subclasses__()
    )


def test_package_has_the_version_of_the_app() -> None:
    """After `__version__`, change package.json, the name of the folder, and the imports in dwsps.js."""
    manifest = json.loads((PACKAGE / "package.json").read_text())
    assert manifest["version"] == dwsps_channels.__version__
    assert list(PACKAGE.glob("client-*")) == [PARTS]


def test_script_names_each_of_its_parts() -> None:
    """So a browser fetches all in one round trip, in place of one for each level of imports."""
    imported = re.findall(
        r"^import .*'\./(.+)';$", (PACKAGE / "dwsps.js").read_text(), re.MULTILINE
    )
    assert sorted(imported) == sorted(f"{PARTS.name}/{part.name}" for part in PARTS.glob("*.js"))


def test_package_has_the_licence_of_the_repository() -> None:
    """A copy: npm leaves out a link."""
    assert (PACKAGE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def run(node: str, file: Path, **env: str) -> None:
    """Run one file; it must hold tests, and none of them may fail or be left out."""
    done = subprocess.run(
        [node, "--test-reporter=tap", file.name],
        cwd=FOLDER,
        env={"PATH": os.environ["PATH"]} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    count = {name: int(n) for name, n in re.findall(r"^# (\w+) (\d+)$", done.stdout, re.MULTILINE)}
    assert done.returncode == 0, done.stdout
    assert count["tests"] == count["pass"] > 0, done.stdout
