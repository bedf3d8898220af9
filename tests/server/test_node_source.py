"""The log as a process has it, read in that process."""

import pytest

from dwsps_channels.core.log import Log
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.core.node import Node
from dwsps_channels.core.page import Position
from dwsps_channels.core.publication import Publication
from dwsps_channels.server.node_source import NodeSource
from tests.core.recording import RecordingBroker
from tests.sources.contract import (
    RetainedSourceContract,
    ServerLog,
    SourceContract,
    offsets,
    own,
    pages,
    read,
)


class NodeLog(ServerLog):
    """The log of a node. Its broker is the test."""

    def __init__(self, *, has_log: bool = True) -> None:
        self.node = Node("private", RecordingBroker())
        self.has_log = has_log
        self.offset = 0
        self.published: list[tuple[int, Publication]] = []
        if has_log:
            self.node.begin(Log("one"))

    async def obtain(self) -> Node:
        return self.node

    def make_source(self) -> LogSource:
        return NodeSource(self.obtain)

    async def publish(self, publication: Publication) -> int:
        self.offset += 1
        self.published.append((self.offset, publication))
        self.node.receive(publication, self.offset if self.has_log else None)
        return self.offset

    async def forget(self, offset: int) -> None:
        kept = [each for each in self.published if each[0] > offset]
        self.node.begin(Log(self.node.epoch, self.offset, offset, kept))

    async def begin_again(self) -> None:
        self.offset, self.published = 0, []
        self.node.begin(Log("two"))


class TestNodeSource(RetainedSourceContract):
    @pytest.fixture
    async def log(self) -> ServerLog:
        return NodeLog()


class TestNodeSourceWithoutALog(SourceContract):
    """The node counts what it receives."""

    @pytest.fixture
    async def log(self) -> ServerLog:
        return CountedLog()


class CountedLog(NodeLog):
    def __init__(self) -> None:
        super().__init__(has_log=False)


class TestOlder:
    """Reading what the process has no more from the broker's log."""

    async def test_it_is_read_from_there(self) -> None:
        whole, log = NodeLog(), NodeLog()
        for number in range(9):
            for each in (whole, log):
                await each.publish(own(number))
        await log.forget(6)
        source = NodeSource(log.obtain, whole.make_source())
        found = await pages(source, Position("one:2", 0.0), messages=2)
        assert offsets(found) == [3, 4, 5, 6, 7, 8, 9]
        assert {page.missed for page in found} == {0}

    async def test_a_new_epoch_is_read_from_there(self) -> None:
        whole, log = NodeLog(), NodeLog()
        await whole.publish(own(1))
        source = NodeSource(log.obtain, whole.make_source())
        page = await read(source, Position("another:2", 0.0))
        assert (offsets([page]), page.restarted) == ([1], True)

    async def test_what_the_process_has_is_not(self) -> None:
        log = NodeLog()
        await log.publish(own(1))

        class Closed(NodeSource):
            """The broker is away."""

            is_closed = False

            async def close(self) -> None:
                self.is_closed = True

        older = Closed(NodeLog().obtain)
        source = NodeSource(log.obtain, older)
        assert offsets([await read(source, Position("one:0", 0.0))]) == [1]
        await source.close()
        assert older.is_closed
