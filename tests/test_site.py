"""The site that ``make docs`` builds of the documents."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.dispatch import Signal

import dwsps_channels
from dwsps_channels import client, exceptions, policies, signals, testing
from tests.processes import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return folder


def test_every_page_is_on_the_site_and_can_be_searched(site: Path) -> None:
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs).with_suffix(".html")) for page in docs.rglob("*.md")}
    index = json.loads((site / "search" / "search_index.json").read_text())
    searched = {entry["location"].partition("#")[0] or "index.html" for entry in index["docs"]}
    assert pages == searched
    assert all((site / page).is_file() for page in pages)


def test_public_names_are_explained(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text()
    names = [
        f"{module.__name__}.{name}"
        for module in (dwsps_channels, client, exceptions, policies, testing)
        for name in module.__all__
        if not name.startswith("_")
    ]
    names += [
        f"dwsps_channels.signals.{name}"
        for name, value in vars(signals).items()
        if isinstance(value, Signal)
    ]
    assert [name for name in names if f'id="{name}"' not in page] == []


def test_reading_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for element in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text()):
            assert not re.search(r'(?:src|href)="(?:https?:)?//', element), element
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text()), sheet
