"""A reader's project: what stands on a how-to page, in a scratch folder, run by the page's own commands."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from django.core.management import call_command

from tests.howto.pages import Page, first_step
from tests.processes import FORKS, HOST, ROOT, Child, free_port

ADDRESS = re.compile(rf"\b(?P<host>{re.escape(HOST)}|localhost):(?P<port>\d{{4,5}})\b")
# Where pages that deploy have the project.
DEPLOYED = "/srv/myproject"


# Makes the tables, and users with a session each; prints the value of their `sessionid` cookies.
POPULATE = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command

call_command("migrate", verbosity=0)
for name in ("ada", "bob"):
    user = User.objects.create_user(name, is_staff=name == "ada", is_superuser=name == "ada")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    print(session.session_key)
"""


class Base(NamedTuple):
    """The beginning of each project: a folder to copy, and the `sessionid` cookies of the users in its database."""

    folder: Path
    ada: str
    """A superuser's."""
    bob: str
    """That of a user without any rights."""


def make_base(folder: Path) -> Base:
    """Make the project `myproject` in `folder` as the tutorial's first step has it, migrated, with two users."""
    call_command("startproject", "myproject", str(folder))
    step = first_step()
    settings = folder / "myproject" / "settings.py"
    changed = re.sub(r"INSTALLED_APPS = \[.*?\]\n", "", settings.read_text(), flags=re.S)
    settings.write_text(re.sub(r"WSGI_APPLICATION = .*\n", lambda _: step["settings.py"], changed))
    (folder / "myproject" / "asgi.py").write_text(step["asgi.py"])
    ada, bob = run("python", "manage.py", "shell", "-v", "0", "-c", POPULATE, folder=folder).split()
    return Base(folder, ada, bob)


def environment(folder: Path) -> dict[str, str]:
    """Give what programs of a project in `folder` need, and nothing of the test run's own settings."""
    kept = {name: os.environ[name] for name in ("LANG", "PATH") if name in os.environ}
    return kept | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def run(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None, may_fail: bool = False
) -> str:
    """
    Run a program in a project's folder to its end, and return what it wrote to stdout.

    Args:
        arguments: the program's name, and what follows it.
        folder: the project's.
        env: what its environment has beyond that of `environment`.
        may_fail: its status does not matter, and the result holds stderr as well.

    Raises:
        AssertionError: it failed; holds what it wrote.
    """
    variables = environment(folder) | dict(env or {})
    if arguments[:2] == ("python", "manage.py"):
        done = FORKS.run(*arguments[2:], env=variables, cwd=folder)
    else:
        done = subprocess.run(
            resolve(arguments),
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    if may_fail:
        return done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def resolve(arguments: Sequence[str]) -> list[str]:
    """Name the programs of the tests' own environment by their paths, as in one that is activated."""
    program, *others = arguments
    if program in ("python", "python3"):
        return [sys.executable, *others]
    own = Path(sys.executable).parent / program
    return [str(own) if own.exists() else program, *others]


class Program(Child):
    """A command of the page. It is ready when it listens, or when its log has `ready` if that is not empty."""

    ready = ""

    def _accepts(self) -> bool:
        if self.ready and self.exit_status is None:
            return self.ready in self.log
        return super()._accepts()


class Project:
    """
    A copy of `base` with the files of `page` in it.

    The page's addresses, such as 127.0.0.1:8000, stand for free ports, in files and commands alike: see `port`.
    `ports` has those that are taken already. `programs` gets what is started; the caller ends it.

    Files with an absolute path are not written, unless they are below /srv/myproject, which is `folder` here.
    """

    def __init__(
        self,
        page: Page,
        folder: Path,
        *,
        base: Base,
        programs: list[Program],
        ports: Mapping[int, int] | None = None,
    ) -> None:
        self.page = page
        self.folder = folder
        self.programs = programs
        self._ports = dict(ports or {})
        shutil.copytree(base.folder, folder, dirs_exist_ok=True)
        for command in page.commands:
            if command.startswith("python manage.py startapp "):
                self._start_app(command.split()[-1])
        for path, text in page.files.items():
            if not path.startswith("/") or path.startswith(f"{DEPLOYED}/"):
                self.write(path, text, append=path in page.appended)
        # The default of this setting is an address, too.
        default = f"ws://{HOST}:8000/ws/pubsub/"
        self.write(
            "myproject/settings.py",
            f'DWSPS = {{"SERVER_URL": "{default}", **globals().get("DWSPS", {{}})}}\n',
            append=True,
        )

    def port(self, printed: int) -> int:
        """Give the port that stands in for the one that the page has."""
        return self._ports.setdefault(printed, free_port())

    def url(self, path: str = "/", *, port: int = 8000) -> str:
        """Give the URL of a page; `port` is the printed one."""
        return f"http://{HOST}:{self.port(port)}{path}"

    def adapt(self, text: str) -> str:
        """Put this project's ports and folder in the place of the printed ones."""
        text = ADDRESS.sub(lambda found: f"{found['host']}:{self.port(int(found['port']))}", text)
        return text.replace(DEPLOYED, str(self.folder))

    def write(self, path: str, text: str, *, append: bool = False) -> Path:
        """Write a file, or what comes at its end."""
        target = Path(self.folder, self.adapt(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a" if append else "w") as file:
            file.write(("\n" if append else "") + self.adapt(text))
        return target

    def type(self, beginning: str, *, may_fail: bool = False) -> str:
        """Run the page's command that begins so, to its end, and return what it wrote: see `run`."""
        command = map(self.adapt, self.page.command(beginning))
        return run(*command, folder=self.folder, may_fail=may_fail)

    def shell(self, code: str) -> str:
        """Run Python code as `manage.py shell` does, in a process that serves nothing; return what it printed."""
        return run("python", "manage.py", "shell", "-v", "0", "-c", code, folder=self.folder)

    def _start_app(self, name: str) -> None:
        # As the command does, without a process.
        folder = self.folder / name
        folder.mkdir()
        call_command("startapp", name, str(folder))

    def migrate(self, app: str, then: str = "") -> None:
        """
        Make the tables of the page's app, as its `makemigrations` and `migrate` do, in one process.

        `then` is Python code that puts first rows into them.
        """
        for command in (f"python manage.py makemigrations {app}", "python manage.py migrate"):
            assert command in self.page.commands, f"{self.page.name} does not say: {command}"
        self.shell(
            "from django.core.management import call_command\n"
            f"call_command('makemigrations', {app!r}, verbosity=0)\n"
            f"call_command('migrate', verbosity=0)\n{then}"
        )

    def start(self, beginning: str, *more: str, port: int = 8000, ready: str = "") -> Program:
        """
        Start the page's command that begins so, and wait until it is ready.

        Args:
            beginning: such as "python manage.py runserver".
            more: arguments beyond the page's.
            port: the one that it listens on, as the page prints it.
            ready: what its log has once it is ready, for what listens on no port.
        """
        arguments = [*map(self.adapt, self.page.command(beginning)), *more]
        if "runserver" in arguments:
            # Its reloader would be another process, and its port is free only here.
            arguments = [argument for argument in arguments if not argument.isdecimal()]
            arguments += ["--noreload", f"{HOST}:{self.port(port)}"]
        return self.start_program(resolve(arguments), port=self.port(port), ready=ready)

    def start_program(
        self,
        arguments: Sequence[str],
        *,
        port: int,
        env: Mapping[str, str] | None = None,
        ready: str = "",
    ) -> Program:
        """Start any program in the project's folder; `port` is the real one, and `env` as for `run`."""
        program = Program(
            f"{Path(arguments[0]).name}-{len(self.programs) + 1}",
            arguments,
            port=port,
            env=environment(self.folder) | dict(env or {}),
            folder=self.folder,
            cwd=self.folder,
        )
        program.ready = ready
        self.programs.append(program)
        program.start()
        return program
