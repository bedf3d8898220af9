"""The end of a session: nothing of it stays."""

import pytest

from dwsps_channels.core.limits import Limits
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Forbidden, Unavailable
from tests.core.recording import World, future, is_error, publish, subscribe, unsubscribe


def test_before_it_closes_the_client_is_told_why(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    client.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))

    assert client.transport.code == 4200
    assert is_error(client.transport.final_frame, "unavailable")
    assert client.transport.final_frame["reason"] == "the server is going away"
    assert not client.transport.discarded
    assert world.is_empty()


def test_a_refusal_for_good_is_not_retryable(world: World) -> None:
    client = world.connect()

    client.session.close(CloseCode.FORBIDDEN, Forbidden("be here"))

    assert client.transport.code == 4003
    assert is_error(client.transport.final_frame, "forbidden")


def test_a_client_that_does_not_read_is_closed_without_what_waits_for_it(world: World) -> None:
    client = world.connect(limits=Limits(buffered_bytes=1234))
    client.send(subscribe("news"))

    client.session.on_slow_consumer()

    assert client.transport.code == 4100
    assert client.transport.discarded
    assert is_error(client.transport.final_frame, "unavailable")
    assert "1234 bytes" in client.transport.final_frame["reason"]
    assert world.is_empty()


def test_a_client_that_does_not_answer_pings_is_closed_to_come_back(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    client.session.on_ping_timeout()

    assert client.transport.code == 4101
    assert client.transport.discarded
    assert is_error(client.transport.final_frame, "unavailable")
    assert world.is_empty()


async def test_before_the_end_the_broker_answers_what_the_client_has_published(
    world: World,
) -> None:
    client, other = world.connect("one"), world.connect("other")
    client.send(subscribe("news"))
    world.broker.answer = accepted = future()
    assert client.session.receive(publish("news", 1, id=1)) is None

    answered = client.session.stop_receiving()
    assert answered is not None
    assert client.session.receive(publish("news", 2, id=2)) is None
    accepted.set_result(1)
    await answered
    world.broker.answer = None
    other.send(publish("news", 3))
    client.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))

    # It is subscribed until it is closed: what is before the cursor in its last frame was sent.
    assert [each.get("message", each.get("id")) for each in client.transport.take()] == [1, 1, 3]
    assert client.transport.code == 4200
    assert [bytes(each.message) for each in world.broker.taken] == [b"1", b"3"]


def test_there_is_nothing_to_wait_for_if_the_broker_has_answered(world: World) -> None:
    client = world.connect()
    client.send(publish("news", 1))
    assert client.session.stop_receiving() is None


@pytest.mark.parametrize("frame", [subscribe("news"), publish("news"), unsubscribe("news"), "{"])
def test_after_closing_frames_are_ignored(world: World, frame: str) -> None:
    client, other = world.connect("one"), world.connect("other")
    other.send(subscribe("news"))
    client.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))
    told = list(world.observer.told)

    assert client.send(frame) == []

    assert other.transport.take() == []
    assert world.broker.taken == []
    assert world.observer.told == told
    client.session.closed()
    other.session.closed()
    assert world.is_empty()


def test_who_has_gone_leaves_the_others_as_they_were(world: World) -> None:
    leaving, staying = world.connect("leaving"), world.connect("staying")
    for client in (leaving, staying):
        client.send(subscribe("news"))
        client.send(subscribe("news.uk"))

    leaving.session.closed()

    assert len(staying.send(publish("news.uk"))) == 3
    assert leaving.transport.take() == []
    staying.session.closed()
    assert world.is_empty()
