"""Deployments for trials; their processes end with the test."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.durability.deployment import Deployment, make_deployment
from tests.peering.site import QUICK, sites
from tests.processes import Child

Deploy = Callable[..., Awaitable[Deployment]]


@pytest.fixture
def deploy(migrated_database: Path, tmp_path: Path) -> Iterator[Deploy]:
    """Call it with a broker to get the servers started and connected.

    ``processes`` are those of north, which serve and forward themselves if ``serve`` is true; else there are so many
    ``workers``. ``dwsps`` is what north's setting has beyond its broker, ``south_dwsps`` what south's has. ``south_url`` is
    where north finds south, which listens on ``south_port``, and has ``south_broker``: ``memory``, ``sqlite`` or ``redis``.
    If ``with_west`` is true, north has a second peer.
    """
    children: list[Child] = []
    with ExitStack() as stack:

        async def start(
            broker: str,
            *,
            processes: int = 1,
            serve: bool = False,
            workers: int = 1,
            timings: Mapping[str, float] = QUICK,
            dwsps: Mapping[str, object] | None = None,
            south_url: str = "",
            south_port: int | None = None,
            south_broker: str = "memory",
            south_dwsps: Mapping[str, object] | None = None,
            with_west: bool = False,
        ) -> Deployment:
            names = ["north", "south", *(["west"] if with_west else [])]
            north, south, *others = stack.enter_context(
                sites(tmp_path, migrated_database, *names, timings=timings)
            )
            south.port = south_port or south.port
            deployment = make_deployment(
                broker,
                north,
                south,
                others,
                tmp_path,
                children,
                dwsps=dwsps or {},
                south_broker=south_broker,
                south_dwsps=south_dwsps or {},
            )
            await deployment.start(
                processes=processes,
                serve=serve,
                workers=0 if serve else workers,
                south_url=south_url or south.url,
            )
            return deployment

        yield start
    for child in children:
        child.close()
