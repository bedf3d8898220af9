"""Full garbage collections, put off: with the collector of this process."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from dwsps_channels.server import garbage
from dwsps_channels.server.garbage import FullCollections
from tests.processes import wait_until_async


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[tuple[int, int, int]]:
    """Have collections at every turn."""
    before = gc.get_threshold()
    low = (10, 1, 1)
    gc.set_threshold(*low)
    yield low
    gc.set_threshold(*before)


@pytest.fixture
def generations() -> Iterator[list[int]]:
    """Those that were collected since then."""
    collected: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            collected.append(info["generation"])

    gc.callbacks.append(note)
    yield collected
    gc.callbacks.remove(note)


async def test_young_objects_alone_are_collected_meanwhile(generations: list[int]) -> None:
    collections = FullCollections(asyncio.get_running_loop())
    collections.put_off()
    generations.clear()
    kept: list[Any] = [[] for _ in range(10_000)]
    assert len(kept) == 10_000
    assert set(generations) == {0}
    collections.resume()


async def test_all_is_as_before_afterwards(thresholds: tuple[int, int, int]) -> None:
    collections = FullCollections(asyncio.get_running_loop())
    collections.put_off()
    collections.put_off()
    assert gc.get_threshold() != thresholds
    collections.resume()
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0
    collections.resume()
    assert gc.get_threshold() == thresholds


async def test_they_are_not_put_off_for_ever(
    thresholds: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "MAX_DELAY", 0.0)
    FullCollections(asyncio.get_running_loop()).put_off()
    assert gc.get_threshold() != thresholds
    await wait_until_async(lambda: gc.get_threshold() == thresholds)


async def test_what_the_project_has_frozen_stays_so() -> None:
    gc.freeze()
    try:
        collections = FullCollections(asyncio.get_running_loop())
        collections.put_off()
        collections.resume()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
