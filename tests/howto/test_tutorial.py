"""docs/tutorial/live-page.md, step by step as a reader takes them."""

import re

from playwright.sync_api import expect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.pages import FENCE, Page
from tests.howto.project import Base, Project
from tests.processes import ROOT, Redis

TEXT = (ROOT / "docs" / "tutorial" / "live-page.md").read_text()
# The tests' project has another name. The topic, which is called `scores` as well, keeps its own.
RENAMED = re.sub(r"\bscores(?=/|\.asgi|\.settings)", "myproject", TEXT)
STEPS = re.split(r"^## \d\. .*$", RENAMED, flags=re.MULTILINE)


def codes(step: int, *languages: str) -> list[str]:
    """Give the blocks of a step in these languages."""
    return [m["code"] for m in FENCE.finditer(STEPS[step]) if m["language"] in languages]


def page() -> Page:
    """The steps that write whole files, and what all steps type."""
    typed = "".join(
        f"```console\n{code}```\n" for step in (1, 5, 6, 7) for code in codes(step, "console")
    )
    return Page("live-page", typed + STEPS[2] + STEPS[3] + STEPS[4])


def shows(window: Window, state: str, *matches: str) -> None:
    expect(window.find("#state")).to_have_text(state)
    expect(window.find("#matches li")).to_have_text(list(matches))


def save(admin: Window, **fields: str) -> None:
    for name, value in fields.items():
        admin.find(f"[name={name}]").fill(value)
    admin.find("[name=_continue]").click()
    expect(admin.find(".messagelist .success")).to_be_visible()


def add_policy_and_desk(project: Project) -> None:
    policy, settings = codes(5, "python")
    project.write("board/policy.py", policy)
    project.write("myproject/settings.py", settings, append=True)
    [desk] = codes(5, "html")
    template = project.folder / "board/templates/board/index.html"
    template.write_text(template.read_text().replace("</body>", f"{desk}</body>"))
    _, script = codes(5, "js")
    project.write("board/static/board/live.js", script, append=True)


def test_every_step_does_what_it_says(
    base: Base, make_project: MakeProject, open_window: OpenWindow, redis: Redis
) -> None:
    project = make_project(page(), ports={6379: redis.port})
    project.write("myproject/settings.py", 'INSTALLED_APPS += ["board"]\n', append=True)
    project.migrate("board")

    server = project.start("python manage.py runserver")
    window = open_window(project.url(), base.ada)
    shows(window, "live")
    admin = open_window(project.url("/admin/board/match/add/"), base.ada)
    save(admin, home="Ajax", away="Porto")
    shows(window, "live", "Ajax 0:0 Porto")
    save(admin, home_goals="1")
    shows(window, "live", "Ajax 1:0 Porto")
    server.kill()
    shows(window, "reconnecting", "Ajax 1:0 Porto")

    add_policy_and_desk(project)
    come_back(server, window)
    shows(window, "live", "Ajax 1:0 Porto")
    stranger = open_window(project.url())
    console, _ = codes(5, "js")
    said = stranger.page.evaluate(f"(async () => {{ {console} }})().catch(String)")
    assert [f"{said}\n"] == codes(5, "text")
    assert stranger.find("#desk").count() == 0
    desks = [open_window(project.url(), base.ada) for _ in range(2)]
    for desk in desks:
        shows(desk, "live", "Ajax 1:0 Porto")
    desks[0].find("[name=text]").fill("Offside?")
    desks[0].find("#desk button").click()
    for desk in desks:
        expect(desk.find("#said li")).to_have_text(["Offside?"])

    server.kill()
    [layer] = codes(6, "python")
    project.write("myproject/settings.py", layer, append=True)
    for port in (8000, 8001):
        project.start(f"python manage.py runserver {port}", port=port)
    window.connect_now()
    other = open_window(project.url(port=8001), base.ada)
    for one in (window, other):
        shows(one, "live", "Ajax 1:0 Porto")
    save(admin, away_goals="1")
    for one in (window, other):
        shows(one, "live", "Ajax 1:1 Porto")

    # Django itself finds fault with a new project, from 6.1 on by its exit status as well.
    check = project.type("python manage.py check --deploy", may_fail=True)
    assert "System check identified" in check
    assert "dwsps_channels" not in check

    for one in (window, other, stranger, *desks):
        only_missed_the_server(one)
    admin.complaints.clear()  # it has no icon
