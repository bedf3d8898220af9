"""Reading a how-to page, and making a project of it."""

from pathlib import Path

import pytest

from tests.howto.pages import HOW_TO, Page
from tests.howto.project import Base, Project

TEXT = """
# A page

```console
$ python manage.py startapp shop
```

At the end of `myproject/settings.py`:

```python
DWSPS = {"SERVER_URL": "ws://127.0.0.1:8000/ws/pubsub/"}
```

The model, `shop/models.py`:

```python
first = 1
```

1. In a list, at the end of `shop/models.py`:

   ```python
   if first:
       second = 2
   ```

```console
$ python manage.py runserver 127.0.0.1:8001
Starting
$ celery --app myproject \\
    worker
```
"""


@pytest.fixture
def page() -> Page:
    return Page("page", TEXT)


@pytest.fixture
def project(page: Page, base: Base, tmp_path: Path) -> Project:
    return Project(page, tmp_path / "project", base=base, programs=[])


def test_files_are_what_the_reader_has_at_the_end(page: Page) -> None:
    assert page.files == {
        "myproject/settings.py": 'DWSPS = {"SERVER_URL": "ws://127.0.0.1:8000/ws/pubsub/"}\n',
        "shop/models.py": "first = 1\n\nif first:\n    second = 2\n",
    }
    assert page.appended == {"myproject/settings.py"}


def test_code_without_a_file_is_refused() -> None:
    page = Page("page", "Then:\n\n```python\nx = 1\n```\n")
    with pytest.raises(
        AssertionError, match=r"no file name before this block, but 'Then:':\nx = 1"
    ):
        _ = page.blocks


def test_commands_are_found_by_their_beginning(page: Page) -> None:
    assert page.command("celery") == ["celery", "--app", "myproject", "worker"]
    with pytest.raises(AssertionError, match="types 'gunicorn' 0 times"):
        page.command("gunicorn")


def test_project_is_that_of_the_tutorial_and_the_page(project: Project) -> None:
    shown = project.shell(
        "from django.conf import settings\n"
        "import shop.models, myproject.asgi\n"
        "print(settings.INSTALLED_APPS[0], settings.ASGI_APPLICATION, settings.DWSPS['SERVER_URL'])\n"
        "print(myproject.asgi.application, shop.models.second)\n"
        "import shop.apps"
    )
    url = f"ws://127.0.0.1:{project.port(8000)}/ws/pubsub/"
    assert shown.startswith(f"daphne myproject.asgi.application {url}\n<channels.routing.")
    assert shown.endswith(" 2\n")
    assert project.adapt("http://127.0.0.1:8000") == project.url("")


def test_deployed_project_is_the_scratch_folder(project: Project) -> None:
    assert project.adapt("root /srv/myproject/static;") == f"root {project.folder}/static;"


def test_every_page_that_begins_with_the_tutorials_project_has_a_test() -> None:
    pages = {path.stem: path.read_text() for path in HOW_TO.glob("*.md")}
    begin = [name for name, text in pages.items() if "[step 1 of the tutorial]" in text]
    assert "notifications" in begin
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    assert {f"test_{name.replace('-', '_')}" for name in begin} <= tests
