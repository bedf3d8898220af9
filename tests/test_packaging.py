"""What is shipped, and what it says it needs."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import dwsps_channels
from tests.processes import ROOT

APP = ROOT / "dwsps_channels"


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def test_wheel_holds_every_file_of_the_app_and_no_other(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name == f"dwsps_channels-{dwsps_channels.__version__}-py3-none-any.whl"

    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert shipped == {
        str(path.relative_to(ROOT))
        for path in APP.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert "dwsps_channels/py.typed" in shipped


def test_requirements_are_those_of_the_package() -> None:
    """Written twice: as what the app needs, and as all that the demo project and the tests need."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    extras = pyproject()["optional-dependencies"].values()
    declared = [*pyproject()["dependencies"], *(one for extra in extras for one in extra)]
    listed = filter(None, (line.partition("#")[0].strip() for line in lines))
    assert sorted(listed) == sorted(declared)


def test_classifiers_name_no_python_that_is_not_allowed() -> None:
    oldest = re.fullmatch(r">=3\.(\d+)", pyproject()["requires-python"])
    assert oldest is not None
    named = [
        int(match[1])
        for classifier in pyproject()["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", classifier))
    ]
    assert min(named) == int(oldest[1])
