"""Reading a part of the log in Redis gives what reading all of it does."""

from collections.abc import Iterable, Iterator
from time import monotonic

import pytest
from django.test import override_settings
from redis import Redis as Client

from dwsps_channels.broker.backends import RedisBackend
from dwsps_channels.broker.redis.blocking import BlockingConnection
from dwsps_channels.broker.redis.reader import RedisReader
from dwsps_channels.broker.redis.sender import open_log
from dwsps_channels.core.log import Log
from dwsps_channels.core.replay import ReplayLimits
from dwsps_channels.reading.broker import BrokerLog
from dwsps_channels.reading.messages import HistoryQuery
from tests.broker.contract import publication
from tests.processes import Redis

SETTINGS = {
    "HISTORY": {
        "chat": {"messages": 1000},
        "chat.deep": {"messages": 5},
        "chat.typing": None,
    }
}
TOPICS = ("news", "chat", "chat.room", "chat.typing.ada", "chat.deep.one", "news.uk")
READ = ("news", "news.uk", "chat", "chat.room", "chat.deep", "chat.typing", "nothing")


class WholeReader(RedisReader):
    """Loads all that is kept below a topic, whatever is asked for."""

    def load(
        self, topic: str, deadline: float, *, since: str | None = None, last: int | None = None
    ) -> Log:
        return super().load(topic, deadline)


@pytest.fixture
def backend(redis: Redis) -> Iterator[RedisBackend]:
    with override_settings(DWSPS=SETTINGS):
        yield RedisBackend({"HOSTS": [redis.url]})


def soon() -> float:
    return monotonic() + 10


def fill(backend: RedisBackend, batches: int) -> str:
    """Append batches of one to four publications; return the epoch."""
    host, layout = backend._place
    connection = BlockingConnection(host)
    connection.deadline = soon()
    connection.open()
    epoch, _, _ = open_log(connection, layout)
    number = 0
    for batch in range(batches):
        publications = []
        for _ in range(1 + batch % 4):
            publications.append(publication(number, topic=TOPICS[number % len(TOPICS)]))
            number += 1
        keys = [""] * len(publications)
        connection.run(layout.append("process", batch, batch, "", publications, keys))
    connection.close()
    return epoch


def assert_same(backend: RedisBackend, queries: Iterable[HistoryQuery]) -> int:
    """Compare; return how many queries with a cursor were recovered."""
    part, whole = BrokerLog(RedisReader(*backend._place)), BrokerLog(WholeReader(*backend._place))
    recovered = 0
    for query in queries:
        found = part.read(query, soon())
        assert found == whole.read(query, soon()), query
        recovered += found.recovered and query.since is not None
    part.close()
    whole.close()
    return recovered


def queries(epoch: str, offsets: int) -> Iterator[HistoryQuery]:
    for topic in READ:
        yield HistoryQuery(topic)
        for count in (0, 1, 2, 3, 7, 50, 500):
            yield HistoryQuery(topic, last=count)
        yield HistoryQuery(topic, since="another:1")
        for offset in range(offsets + 2):
            yield HistoryQuery(topic, since=f"{epoch}:{offset}")


def test_of_all_that_was_published(backend: RedisBackend) -> None:
    epoch = fill(backend, 16)  # 40 publications
    assert assert_same(backend, queries(epoch, 40)) > 0


@override_settings(
    DWSPS={"TAIL_MAX_AGE": 0.001, "LOG_MAX_AGE": 0.001, "HISTORY": {"chat": {"seconds": 300}}}
)
def test_after_the_log_has_aged(redis: Redis) -> None:
    backend = RedisBackend({"HOSTS": [redis.url]})
    epoch = fill(backend, 16)
    # Redis removes it later.
    assert assert_same(backend, queries(epoch, 40)) > 40


def test_after_the_log_was_trimmed(backend: RedisBackend, redis: Redis) -> None:
    epoch = fill(backend, 16)
    _, layout = backend._place
    with Client.from_url(redis.url) as client:
        client.xtrim(layout.log, maxlen=6, approximate=False)
    # A kept root knows more than the log.
    assert assert_same(backend, queries(epoch, 40)) > 6 * len(READ)


def test_of_many_pages(backend: RedisBackend) -> None:
    epoch = fill(backend, 400)
    part = BrokerLog(RedisReader(*backend._place))
    found = part.read(HistoryQuery("news.uk", last=20), soon())
    assert [message.message for message in found.messages] == [6 * n + 5 for n in range(146, 166)]
    assert_same(
        backend, (HistoryQuery(topic, last=count) for topic in READ for count in range(20, 60, 3))
    )
    # The whole log is searched.
    rare = part.read(HistoryQuery("nothing", last=1), soon())
    assert (rare.messages, rare.cursor) == ([], f"{epoch}:1000")
    part.close()


def test_no_more_is_loaded_than_the_limits_allow(backend: RedisBackend) -> None:
    epoch = fill(backend, 400)
    reader = RedisReader(*backend._place, ReplayLimits(messages=20))
    # Where the limits end is said: what is before is missing.
    for log in (
        reader.load("news", soon()),
        reader.load("news", soon(), last=500),
        reader.load("news", soon(), since=f"{epoch}:1"),
        reader.load("news", soon(), since=f"{epoch}:900"),
    ):
        assert 20 <= len(log.publications) <= 24
        assert log.publications[-1][0] == 997
        assert log.floor >= log.publications[0][0] - 1
    log = reader.load("news", soon(), since=f"{epoch}:970")
    assert (log.floor <= 970, len(log.publications)) == (True, 10)
    reader.close()
