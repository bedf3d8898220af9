"""The tests on each Python and Django that pyproject.toml names: `make test-all`."""

import os
from glob import glob

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
DJANGOS = [
    classifier.removeprefix("Framework :: Django :: ")
    for classifier in PYPROJECT["project"]["classifiers"]
    if classifier.startswith("Framework :: Django :: ")
]

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
# An interpreter that is not installed skips its sessions; the summary names them.
nox.options.error_on_missing_interpreters = False

# pyenv puts in the path only the versions that are switched on.
for _python in PYTHONS:
    for _folder in glob(os.path.expanduser(f"~/.pyenv/versions/{_python}.*/bin")):
        os.environ["PATH"] = _folder + os.pathsep + os.environ["PATH"]


def exist(python: str, django: str) -> bool:
    """Return whether this Django runs on this Python."""
    oldest = (3, 12) if int(django.partition(".")[0]) >= 6 else (3, 10)
    return tuple(map(int, python.split("."))) >= oldest


@nox.session
@nox.parametrize(
    ("python", "django"),
    [(python, django) for python in PYTHONS for django in DJANGOS if exist(python, django)],
)
def tests(session: nox.Session, django: str) -> None:
    """Run all tests, or what follows `--`."""
    lists = ("-r", "requirements/test.txt", "-r", "requirements/docs.txt")
    session.install(*lists, f"django~={django}.0")
    processes = os.environ.get("TEST_PROCESSES", "4")
    arguments = session.posargs or ["-n", processes, "--dist", "loadfile", "--no-loadscope-reorder"]
    session.run("python", "-m", "pytest", *arguments)
