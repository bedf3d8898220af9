"""docs/how-to/chat.md: every message once and in order, whatever happens to the connection."""

import json
import sqlite3
import threading
import urllib.error
import urllib.request
from contextlib import closing
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect
from websockets.sync.client import connect

from tests.browser import Window
from tests.howto.conftest import MakeProject, OpenWindow, come_back, only_missed_the_server
from tests.howto.project import Base, Project

SENDERS = 4
EACH = 5
STORED = 3


class Chat:
    """The page's project with the rooms `lobby`, of ada and bob, and `desk`, of ada alone."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.migrate("chat")
        project.shell(
            "from chat.models import Room; from django.contrib.auth.models import User\n"
            "Room.objects.create(slug='lobby').members.set(User.objects.all())\n"
            "Room.objects.create(slug='desk').members.set(User.objects.filter(username='ada'))"
        )
        self.page = project.url("/chat/lobby/")

    def execute(self, sql: str, *parameters: str) -> None:
        """Change the database behind the project's back."""
        with closing(sqlite3.connect(self.project.folder / "db.sqlite3")) as database, database:
            database.execute(sql, parameters)

    def store(self, last: int) -> None:
        """Store messages of the lobby up to the number `last`, and publish none."""
        with closing(sqlite3.connect(self.project.folder / "db.sqlite3")) as database, database:
            [(room, newest)] = database.execute(
                "SELECT id, last_number FROM chat_room WHERE slug = 'lobby'"
            )
            database.executemany(
                "INSERT INTO chat_message (room_id, number, author_id, text, sent_at)"
                " VALUES (?, ?, (SELECT id FROM auth_user WHERE username = 'ada'), 'stored', '2026-01-01')",
                [(room, number) for number in range(newest + 1, last + 1)],
            )
            database.execute("UPDATE chat_room SET last_number = ? WHERE id = ?", (last, room))

    def send(self, session: str, text: str, room: str = "lobby") -> None:
        """Send as the page's form does."""
        token = "t" * 32
        cookies = f"sessionid={session}; csrftoken={token}"
        request = urllib.request.Request(
            self.project.url(f"/chat/{room}/send/"),
            urlencode({"text": text, "csrfmiddlewaretoken": token}).encode(),
            {"Cookie": cookies},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 201

    def ask(self, session: str, action: str, topic: str) -> str:
        """Do as a client may by websocket: "ack", or the code of the error that it gets."""
        url = self.project.url("/ws/pubsub/").replace("http", "ws")
        with connect(
            url, additional_headers={"Cookie": f"sessionid={session}"}, proxy=None
        ) as socket:
            frame = {"type": action, "topic": topic} | (
                {"message": 1} if action == "publish" else {}
            )
            socket.send(json.dumps(frame))
            answer = json.loads(socket.recv(timeout=20))
        return str(answer.get("code", answer["type"]))


@pytest.fixture
def chat(make_project: MakeProject) -> Chat:
    return Chat(make_project("chat"))


def numbers(window: Window) -> list[int]:
    """The numbers of the messages on the page, from the top."""
    shown: list[int] = window.find("#messages").evaluate(
        "list => [...list.children].map(item => item.value)"
    )
    return shown


def expect_newest(window: Window, number: int) -> None:
    expect(window.find(f'#messages li[value="{number}"]')).to_be_attached()


def expect_live(window: Window) -> None:
    expect(window.find("#state")).to_have_text("live")


def test_page_has_the_last_messages_then_new_ones_then_what_it_missed(
    base: Base, chat: Chat, open_window: OpenWindow
) -> None:
    chat.store(60)
    server = chat.project.start("python manage.py runserver")
    ada, bob = (open_window(chat.page, session) for session in (base.ada, base.bob))
    for window in (ada, bob):
        expect_live(window)
        expect_newest(window, 60)
        assert numbers(window) == [*range(11, 61)]

    ada.find("#send input[name=text]").fill("<b>Hello</b>")
    ada.find("#send button").click()
    for window in (ada, bob):
        expect(window.find("#messages li").last).to_have_text("ada: <b>Hello</b>")

    # More than one answer holds, and nothing tells the page.
    chat.store(300)
    server.kill()
    for window in (ada, bob):
        expect(window.find("#state")).to_have_text("reconnecting")
    come_back(server, ada, bob)
    for window in (ada, bob):
        expect_live(window)
        expect_newest(window, 300)
        assert numbers(window) == [*range(11, 301)]
        only_missed_the_server(window)

    # Logged out elsewhere: nothing gets lost in silence, and the page becomes the login.
    chat.execute("DELETE FROM django_session WHERE session_key = ?", base.bob)
    text = bob.find("#send input[name=text]")
    text.fill("Still here?")
    bob.find("#send button").click()
    expect(bob.find("#state")).to_have_text("not sent: 200")
    expect(text).to_have_value("Still here?")
    chat.store(301)  # so that the page has to ask for what it misses
    chat.send(base.ada, "Bye")
    expect(bob.find("form#login-form")).to_be_visible()


def test_pages_have_all_in_one_order_though_many_send_at_once(
    base: Base, chat: Chat, open_window: OpenWindow
) -> None:
    chat.project.start("python manage.py runserver")
    windows = [open_window(chat.page, session) for session in (base.ada, base.bob)]
    for window in windows:
        expect_live(window)
    # The first message that comes shows the page that others are missing.
    chat.store(STORED)

    def send(name: str) -> None:
        for number in range(EACH):
            chat.send(base.ada, f"{name}-{number}")

    senders = [threading.Thread(target=send, args=(f"sender{n}",)) for n in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    total = STORED + SENDERS * EACH
    for window in windows:
        expect_newest(window, total)
        assert numbers(window) == [*range(1, total + 1)]
    shown = windows[0].find("#messages li").all_text_contents()
    assert shown == windows[1].find("#messages li").all_text_contents()
    assert len(set(shown) - {"ada: stored"}) == SENDERS * EACH


def test_members_hear_their_room_and_send_by_the_view_alone(base: Base, chat: Chat) -> None:
    chat.project.start("python manage.py runserver")
    desk = chat.project.url("/chat/desk/")
    read = urllib.request.Request(desk, headers={"Cookie": f"sessionid={base.bob}"})
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(read, timeout=20)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        chat.send(base.bob, "let me in", room="desk")
    assert chat.ask(base.bob, "subscribe", "chat.desk") == "forbidden"
    assert chat.ask(base.bob, "subscribe", "chat") == "forbidden"
    assert chat.ask(base.bob, "subscribe", "chat.lobby") == "ack"
    assert chat.ask(base.bob, "publish", "chat.lobby") == "forbidden"
