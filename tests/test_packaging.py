"""The package: its files and its requirements."""

import email
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import dwsps_channels
from tests.processes import ROOT

APP = ROOT / "dwsps_channels"


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    [file] = folder.glob("*.whl")
    return file


def test_wheel_holds_every_file_of_the_app_and_no_other(wheel: Path) -> None:
    assert wheel.name == f"dwsps_channels-{dwsps_channels.__version__}-py3-none-any.whl"

    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert shipped == {
        str(path.relative_to(ROOT))
        for path in APP.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert "dwsps_channels/py.typed" in shipped


def test_an_index_shows_the_readme_without_dead_links(wheel: Path) -> None:
    [name] = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    shown = metadata.get_payload()
    assert isinstance(shown, str)
    assert shown.startswith("# dwsps for Django\n")
    links = re.findall(r"]\(([^)]+)\)", re.sub(r"```.*?```", "", shown, flags=re.DOTALL))
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    assert "tutorial goes from an empty project" in " ".join(shown.split())


def requirements(file: str) -> list[str]:
    """The requirements in a file, without those of the files that it names."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-r ")]


def test_demo_runs_with_the_package_and_all_its_extras() -> None:
    """Both lists name the same oldest versions."""
    extras = pyproject()["optional-dependencies"].values()
    declared = [*pyproject()["dependencies"], *(one for extra in extras for one in extra)]
    demo_only = {"dj-database-url", "whitenoise"}
    listed = requirements("requirements.txt")
    assert {name_of(line) for line in listed} >= demo_only
    assert sorted(line for line in listed if name_of(line) not in demo_only) == sorted(declared)


def test_looking_at_the_demo_installs_no_tool_of_its_contributors() -> None:
    demo = {name_of(line) for line in requirements("requirements.txt")}
    tools = [
        name_of(line)
        for file in (ROOT / "requirements").glob("*.txt")
        for line in requirements(str(file.relative_to(ROOT)))
    ]
    assert {"pytest", "playwright", "mypy", "ruff", "nox", "mkdocs"} <= set(tools)
    assert demo.isdisjoint(tools)
    assert len(tools) == len(set(tools))  # each is in one list


def name_of(requirement: str) -> str:
    found = re.match(r"[\w-]+", requirement)
    assert found is not None
    return found[0]


def test_classifiers_name_no_python_that_is_not_allowed() -> None:
    oldest = re.fullmatch(r">=3\.(\d+)", pyproject()["requires-python"])
    assert oldest is not None
    named = [
        int(match[1])
        for classifier in pyproject()["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", classifier))
    ]
    assert min(named) == int(oldest[1])
