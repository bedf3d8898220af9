"""The changes of which connections hear, in a project whose users, and their memberships of groups, are models of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

MODELS = """
import uuid
from django.contrib.auth.models import AbstractUser, Group
from django.db import models


class Person(AbstractUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    username = None
    email = models.EmailField(unique=True)
    groups = models.ManyToManyField(Group, through="Membership", related_name="people")

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = []


class Membership(models.Model):
    person = models.ForeignKey(Person, models.CASCADE)
    group = models.ForeignKey(Group, models.CASCADE)
"""

SCRIPT = """
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    SECRET_KEY="secret" * 10,
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "channels", "dwsps_channels", "people"
    ],
    AUTH_USER_MODEL="people.Person",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()
call_command("migrate", run_syncdb=True, verbosity=0)

from django.contrib.auth.models import Group
from dwsps_channels.publishing import notifying
from people.models import Membership, Person
from tests.access.recording import RecordingNotifier

notifier = RecordingNotifier()
notifying.choose_publisher = lambda *args: notifier


def show(what):
    names = {str(person.pk): person.email for person in Person.objects.all()}
    told = [f"{names[each.user]} {each.revokes}" for each in notifier.take()]
    print(f"{what}: {', '.join(told)}")


ada = Person.objects.create(email="ada")
editors = Group.objects.create(name="editors")
show("made")
ada.save(update_fields=["email"])
show("name")
row = Membership.objects.create(person=ada, group=editors)
show("joined")
row.delete()
show("left")
ada.groups.add(editors)
show("added")
ada.groups.remove(editors)
show("removed")
"""


@pytest.mark.processes
def test_their_changes_are_told(tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "models.py").write_text(MODELS)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.splitlines() == [
        "made: ",
        "name: ada False",
        "joined: ada False",
        "left: ada True",
        "added: ada False",
        "removed: ada True, ada True",
    ], ran.stderr
