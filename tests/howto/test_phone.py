"""docs/how-to/phone.md, tried as written."""

import json

from tests.howto.conftest import MakeProject
from tests.howto.project import Program, Project, resolve
from tests.processes import wait_until

SAVE = "python manage.py shell -c \"order = Order.objects.latest('pk')"
DELETE = 'python manage.py shell -c "from dwsps_channels.access'


def shows(phone: Program, *lines: str) -> None:
    wait_until(lambda: phone.log.splitlines()[-len(lines) :] == [*lines], 20, "what it prints")


def test_a_phone_follows_an_order_until_it_is_taken_away(make_project: MakeProject) -> None:
    project: Project = make_project("phone")
    login = json.loads((project.folder / "keychain.json").read_text())
    project.migrate(
        "orders",
        "from django.contrib.auth.models import User\n"
        f"user = User.objects.get(username={login['username']!r})\n"
        f"user.set_password({login['password']!r})\n"
        "user.save()\n",
    )
    server = project.start("python manage.py runserver")
    project.type('python manage.py shell -c "Order.objects.create(customer=User')
    phone = project.start("python phone.py", ready="received")
    project.type(SAVE)
    shows(phone, "received", "ready")

    server.terminate()
    server.start()
    wait_until(lambda: phone.log.count("ready") >= 2, 30, "the order loaded again")
    project.shell("order = Order.objects.latest('pk'); order.state = 'cold'; order.save()")
    shows(phone, "ready", "cold")

    project.type(DELETE)
    shows(phone, "not available: forbidden")
    assert phone.wait() == 0
    other = project.start_program(resolve(["python", "phone.py", "7"]), port=0, ready="available")
    assert other.wait() == 0
