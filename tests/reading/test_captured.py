"""The history of tests: what is in the outbox."""

import pytest

from dwsps_channels import ahistory, apublish, history, publish
from dwsps_channels.capturing import Published
from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.reading import HistoryMessage
from dwsps_channels.reading.captured import CapturedLog
from dwsps_channels.reading.messages import HistoryQuery
from dwsps_channels.testing import capture_publishes, outbox


def published(*topics: str) -> CapturedLog:
    return CapturedLog([Published(topic, number) for number, topic in enumerate(topics, 1)])


def offsets(log: CapturedLog, query: HistoryQuery) -> list[int]:
    return [message.offset for message in log.read(query, 1.0).messages]


LOG = published("chat", "chat.a", "chats", "other", "chat.a.b", "chat.b")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (HistoryQuery("chat"), [1, 2, 5, 6]),
        (HistoryQuery("chat.a"), [2, 5]),
        (HistoryQuery("chat", last=3), [2, 5, 6]),
        (HistoryQuery("chat", last=0), []),
        (HistoryQuery("chat", last=9), [1, 2, 5, 6]),
        (HistoryQuery("chat", since="outbox:2"), [5, 6]),
        (HistoryQuery("chat", since="outbox:6"), []),
    ],
)
def test_it_has_what_is_at_and_below_the_topic(query: HistoryQuery, found: list[int]) -> None:
    assert offsets(LOG, query) == found
    assert LOG.read(query, 1.0).recovered
    assert LOG.read(query, 1.0).cursor == "outbox:6"


@pytest.mark.parametrize("since", ["", "outbox", "outbox:", "outbox:7", "outbox:-1", "other:1"])
def test_what_is_no_cursor_of_it_recovers_nothing(since: str) -> None:
    found = LOG.read(HistoryQuery("chat", since=since), 1.0)
    assert (found.messages, found.recovered) == ([], False)


async def test_code_under_test_reads_what_it_has_published() -> None:
    await apublish("chat.a", {"text": "Hello"})
    found = await ahistory("chat", last=10)
    assert found.messages == [
        HistoryMessage("chat.a", {"text": "Hello"}, outbox[0].timestamp, offset=1)
    ]
    await apublish("chat.a", {"text": "Bye"})
    later = await ahistory("chat", since=found.cursor)
    assert [message.message for message in later.messages] == [{"text": "Bye"}]


def test_so_does_synchronous_code() -> None:
    with capture_publishes():
        publish("chat", 1, on_commit=False)
        assert [message.message for message in history("chat").messages] == [1]
    assert history("chat").messages == []


async def test_bad_arguments_raise() -> None:
    with pytest.raises(InvalidTopic):
        history("a..b")
    with pytest.raises(InvalidTopic):
        await ahistory(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="either 'last' or 'since'"):
        history("a", last=1, since="outbox:1")
    with pytest.raises(ValueError, match="'last' must be 0 or above"):
        await ahistory("a", last=-1)


def test_what_is_too_long_is_no_cursor() -> None:
    assert not history("a", since="outbox:" + "0" * 200).recovered
