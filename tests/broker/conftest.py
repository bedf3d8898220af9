"""A Redis for the tests of a module, which takes less than one for each."""

import signal
from collections.abc import Iterator

import pytest
from redis import Redis as Client

from tests.processes import Redis, redis_server


@pytest.fixture(scope="module")
def redis_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A redis-server. Tests take it by ``emptied``."""
    with Redis.all_closed() as servers:
        servers.append(redis_server(tmp_path_factory.mktemp("redis")))
        yield servers[0].start()


@pytest.fixture
def emptied(redis_of_module: Redis) -> Redis:
    """The module's Redis, running and empty. A test may kill or stop it, and leaves its configuration as it is."""
    if redis_of_module.exit_status is not None:
        redis_of_module.start()
    redis_of_module.signal(signal.SIGCONT)  # it may be stopped after a test that has failed
    with Client.from_url(redis_of_module.url) as client:
        # Tests count connections, and an earlier one may have left some to the garbage collector.
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)
        client.flushall()
    return redis_of_module
