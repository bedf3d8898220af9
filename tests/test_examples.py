"""The examples of docs/how-to/testing.md pass as printed, in a project that has what they speak of."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

# What the examples take for granted: settings, a policy, and fixtures.
PROJECT = {
    "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\nasyncio_default_fixture_loop_scope = function\n",
    "settings.py": """
from tests.settings import *

DWSPS = {"POLICY": "policies.OwnTopics"}
""",
    "policies.py": """
from dwsps_channels.policies import nonblocking


class OwnTopics:
    @nonblocking
    def may_subscribe(self, identity, topic):
        return topic == "members" or topic.startswith(f"users.{identity.user.username}.")

    may_publish = may_subscribe
""",
    "conftest.py": """
import pytest
from django.contrib.auth.models import User

from dwsps_channels import publish


class Order:
    def __init__(self, price):
        self.price = price

    def pay(self):
        if self.price:
            publish("orders.7", {"state": "paid"})


@pytest.fixture
def order(db):
    return Order(price=5)


@pytest.fixture
def free_order():
    return Order(price=0)


@pytest.fixture
def user(transactional_db):
    return User.objects.create_user("ada")
""",
}


@pytest.mark.processes
def test_examples_pass_as_printed(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how-to" / "testing.md").read_text()
    examples = [
        code
        for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if "def test_" in code
    ]
    # The last one uses the names that the one before it imports, and the reader's own application.
    module = "from project.asgi import application\n\n" + "\n\n".join(examples)
    for name, content in {**PROJECT, "test_printed.py": module}.items():
        (tmp_path / name).write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{text.count('def test_')} passed" in done.stdout
