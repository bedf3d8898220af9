"""README.md, "Use it in your project": what stands there is all that a project needs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.howto.conftest import OpenWindow
from tests.howto.pages import FENCE, Page
from tests.howto.project import Base, Program, Project
from tests.processes import ROOT, wait_until

DEFAULT_APPS = """
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
    "django.contrib.sessions", "django.contrib.messages", "django.contrib.staticfiles",
"""

# What a reader has besides: a page, and the start of asgi.py that startproject makes.
PAGE = """
`myproject/asgi.py`:
```python
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "myproject.settings")

http = get_asgi_application()

{asgi}
```
At the end of `myproject/settings.py`:
```python
{settings}
```
`myproject/urls.py`:
```python
from django.urls import path
from django.views.generic import TemplateView

urlpatterns = [path("", TemplateView.as_view(template_name="page.html"))]
```
`news/templates/page.html`:
```html
{html}
```
`news/static/live.js`:
```js
{js}
```
```console
$ python manage.py startapp news
$ python manage.py runserver
```
"""


def blocks() -> dict[str, str]:
    section = (ROOT / "README.md").read_text()
    section = section.partition("\n## Use it in your project\n")[2].partition("\n## ")[0]
    return {found["language"]: found["code"] for found in FENCE.finditer(section)}


@pytest.fixture
def snippets() -> list[str]:
    """The settings, asgi.py, and code that publishes."""
    parts = re.split(r"^# .*\n", blocks()["python"], flags=re.MULTILINE)
    assert len(parts) == 4
    return parts[1:]


@pytest.fixture
def project(base: Base, snippets: list[str], tmp_path: Path) -> Iterator[Project]:
    settings, asgi, _ = snippets
    assert '["daphne", ..., ' in settings
    text = PAGE.format(
        settings=settings.replace("...,", f'{DEFAULT_APPS} "news",'),
        asgi=asgi,
        html=blocks()["html"],
        js=blocks()["js"],
    )
    with Program.all_closed() as programs:
        yield Project(Page("README", text), tmp_path / "project", base=base, programs=programs)


def test_its_lines_bring_a_message_to_the_page(
    project: Project, snippets: list[str], open_window: OpenWindow
) -> None:
    project.start("python manage.py runserver")
    window = open_window(project.url("/"))
    shown: list[str] = []
    window.page.on("console", lambda message: shown.append(message.text))

    def arrived() -> bool:
        project.shell(snippets[2])
        window.page.evaluate("0")  # the browser's events are told meanwhile
        return any("news.uk" in line and "Hello" in line for line in shown)

    # The page subscribes in its own time.
    wait_until(arrived, timeout=30)


def test_checks_have_nothing_to_say(project: Project) -> None:
    assert "no issues" in project.shell(
        "from django.core.management import call_command; call_command('check')"
    )
