"""Many clients come back at once and have missed much: each gets all of it, from the memory of its process."""

import json
import subprocess
from typing import Any

import pytest

from benchmarks import generator
from tests.processes import Redis, Server, ServerFactory, require

CLIENTS = 200
MISSED = 100
TAIL_BYTES = 16 * 2**20

# A process asks now and then if Redis is still what it was, however many clients come: on a slow machine more often.
BY_ITSELF = CLIENTS // 2


class Storm:
    """The clients, who stay at each of three points until ``go_on`` is called."""

    def __init__(self, server: Server) -> None:
        require(generator.COMPILER)
        words = ["--adapter", "dwsps", "--port", server.port, "--topics", 3]
        words += ["--connections", CLIENTS, "--missed", MISSED, "--timeout", 60]
        self.process = subprocess.Popen(
            [generator.build(), "recover", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.result: dict[str, Any] = {}

    def reaches(self, point: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "held" in message:
                assert message["held"] == point
                return
            self.result = message
        _, errors = self.process.communicate()
        raise AssertionError(f"{point} was not reached: {errors}")

    def goes_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def storm_of(request: pytest.FixtureRequest) -> Any:
    def start(server: Server) -> Storm:
        storm = Storm(server)
        request.addfinalizer(storm.close)
        return storm

    return start


def calls(redis: Redis) -> dict[str, int]:
    """Return how often Redis was asked for what."""
    import redis as client

    with client.Redis.from_url(redis.url) as connection:
        found = connection.info("commandstats")
    return {name.removeprefix("cmdstat_"): one["calls"] for name, one in found.items()}


def test_a_storm_of_clients_gets_all_and_redis_is_not_asked(
    server_kind: str, start_server: ServerFactory, redis: Redis, storm_of: Any
) -> None:
    server = start_server(server_kind, env={"REDIS_URL": redis.url})
    storm = storm_of(server)
    storm.reaches("connected")
    memory = server.rss()
    storm.goes_on()
    storm.reaches("missed")
    before = calls(redis)
    storm.goes_on()
    storm.reaches("recovered")
    after = calls(redis)
    rise = server.rss() - memory

    assert storm.result["recovered"] == CLIENTS
    checked = storm.result["checked"]
    assert checked["delivered"] == checked["expected"] == CLIENTS * MISSED
    assert not any(checked[name] for name in ("lost", "doubled", "disordered", "damaged"))
    asked = {name: count - before.get(name, 0) for name, count in after.items()}
    assert all(count < BY_ITSELF for count in asked.values()), asked
    assert rise < TAIL_BYTES
