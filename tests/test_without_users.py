"""A project without ``django.contrib.auth``: everything but topic rules works."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio
import django
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError, SystemCheckError

settings.configure(
    SECRET_KEY="secret" * 10,
    INSTALLED_APPS=["channels", "dwsps_channels"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    SILENCED_SYSTEM_CHECKS=["dwsps_channels.W003", "dwsps_channels.W006"],
)
django.setup()
call_command("check", fail_level="WARNING")
call_command("migrate", verbosity=0)
call_command("makemigrations", check=True, dry_run=True)

from dwsps_channels.rules.loading import load_rules
from dwsps_channels.testing import PubSubCommunicator


async def use():
    async with PubSubCommunicator() as client:
        await client.subscribe("news")
        await client.publish("news.uk", "hello")
        print((await client.receive())["message"])


asyncio.run(use())
for broken in (lambda: call_command("topicrules", "list"), load_rules):
    try:
        broken()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.processes
def test_it_migrates_and_serves_and_has_no_rules() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    problem = "topic rules need 'django.contrib.auth' in INSTALLED_APPS: they name its groups"
    assert ran.stdout.splitlines()[-3:] == [
        "hello",
        f"CommandError: {problem}",
        f"ImproperlyConfigured: {problem}",
    ], ran.stderr
