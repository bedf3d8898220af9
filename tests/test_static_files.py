"""The browser client under the storages that give static files hashed names, as a browser loads it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Request

import dwsps_channels
from tests.browser import Window, chromium
from tests.processes import ROOT, ServerFactory, base_environment, manage, wait_until

SETTINGS = """
import os
from pathlib import Path

from project.settings import *

STATIC_ROOT = Path(__file__).with_name("collected")
STORAGES = {"staticfiles": {"BACKEND": os.environ["TEST_STORAGE"]}}
WHITENOISE_USE_FINDERS = False
WHITENOISE_KEEP_ONLY_HASHED_FILES = os.environ["TEST_STORAGE"] == "static_storages.RewritesImports"
"""

STORAGES = """
from whitenoise.storage import CompressedManifestStaticFilesStorage

class RewritesImports(CompressedManifestStaticFilesStorage):
    support_js_module_import_aggregation = True
"""

HASHED = re.compile(r"\.[0-9a-f]{12}\.js$")
VERSIONED = f"/client-{dwsps_channels.__version__}/"
PARTS = sorted(
    path.stem
    for path in (ROOT / "dwsps_channels/static/dwsps_channels" / VERSIONED.strip("/")).glob("*.js")
)


class Load(NamedTuple):
    """A module of the client that the page has loaded."""

    path: str
    cache_control: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2].partition(".")[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def load_page(
    browser: Browser, start_server: ServerFactory, database: Path, tmp_path: Path
) -> Iterator[Callable[..., list[Load]]]:
    """Call it with a storage to open the demo page with collected files, until the client is connected."""
    windows: list[Window] = []

    def load(storage: str) -> list[Load]:
        (tmp_path / "static_storages.py").write_text(STORAGES)
        (tmp_path / "static_settings.py").write_text(SETTINGS)
        env = {
            "DJANGO_SETTINGS_MODULE": "static_settings",
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "TEST_STORAGE": storage,
        }
        # The admin's files would take most of the time, and the page has none of them.
        collect = ("collectstatic", "--noinput", "--ignore", "admin", "-v", "0")
        manage(*collect, env=base_environment(database) | env)
        server = start_server("fastlane", env=env)
        window = Window(browser.new_page())
        windows.append(window)
        requests: list[Request] = []
        window.page.on("requestfinished", lambda request: requests.append(request))
        window.open(server.http_url)
        window.subscribe("news")
        assert window.complaints == []

        def loads() -> list[Load]:
            return [
                Load(request.url.removeprefix(server.http_url), response.headers["cache-control"])
                for request in requests
                if "/dwsps_channels/" in request.url and (response := request.response())
            ]

        # The browser tells of the end of a request in its own time.
        wait_until(lambda: window.page.title() and len(loads()) > len(PARTS))
        return loads()

    yield load
    for window in windows:
        window.page.close()


@pytest.mark.parametrize(
    "storage",
    [
        "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
        "whitenoise.storage.CompressedManifestStaticFilesStorage",
    ],
)
def test_every_url_changes_with_the_version(
    load_page: Callable[..., list[Load]], storage: str
) -> None:
    """So no cache can mix the modules of two versions, however long it keeps them."""
    loads = load_page(storage)
    assert sorted(load.name for load in loads) == sorted(["dwsps", *PARTS])
    for load in loads:
        if load.name == "dwsps":
            assert HASHED.search(load.path)
            assert "immutable" in load.cache_control
        else:
            assert VERSIONED in load.path


def test_every_url_has_a_hash_if_the_storage_rewrites_imports(
    load_page: Callable[..., list[Load]],
) -> None:
    loads = load_page("static_storages.RewritesImports")
    assert sorted(load.name for load in loads) == sorted(["dwsps", *PARTS])
    for load in loads:
        assert HASHED.search(load.path)
        assert "immutable" in load.cache_control


@pytest.mark.parametrize("part", ["dwsps", *PARTS])
def test_imports_end_with_a_semicolon(part: str) -> None:
    """Without it, Django's storages do not find them."""
    folder = ROOT / "dwsps_channels/static/dwsps_channels"
    path = folder / "dwsps.js" if part == "dwsps" else folder / VERSIONED.strip("/") / f"{part}.js"
    imports = [line for line in path.read_text().splitlines() if line.startswith("import ")]
    assert [line for line in imports if not line.endswith(";")] == []
