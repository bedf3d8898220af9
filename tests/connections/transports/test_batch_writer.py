"""Order and completeness for each connection, for any mix of broadcasts and frames to one connection."""

import asyncio
import gc
import sys
from collections.abc import Collection
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.connections.transports.batch_writer import BatchWriter
from dwsps_channels.connections.transports.send_buffer import SendBuffer
from dwsps_channels.protocol.frames import Frame, Frames
from tests.connections.transports.contract import FINAL_FRAME

COUNT = 4


class Client:
    """A send buffer on a stream that takes all, and ends with the close."""

    def __init__(self, batch_writer: BatchWriter) -> None:
        self.writes: list[bytes] = []
        self.send_buffer = SendBuffer(self, batch_writer, self)

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def begin_close(self, code: int, *, timeout: float) -> None:
        self.send_buffer.write_frame(b"closed")
        self.send_buffer.finish()

    def bytes_in_flight(self) -> int:
        return 0

    @property
    def received(self) -> bytes:
        return b"".join(self.writes)


def frame(number: int) -> Frame:
    return Frame(b"<%d>" % number)


def group(clients: list[Client], members: Collection[int]) -> Collection[SendBuffer]:
    return dict.fromkeys(clients[member].send_buffer for member in sorted(members))


members = st.frozensets(st.integers(0, COUNT - 1), min_size=1)
client = st.integers(0, COUNT - 1)
steps = st.lists(
    st.one_of(
        # Mostly the same groups again: that is what makes a batch.
        st.tuples(st.just("deliver"), st.integers(0, 2)),
        st.tuples(st.just("deliver"), st.integers(0, 2)),
        st.tuples(st.just("send"), client),
        st.tuples(st.just("send_all"), client),
        st.tuples(st.just("put"), client),
        st.tuples(st.just("flush"), client),
        st.tuples(st.just("block"), client),
        st.tuples(st.just("unblock"), client),
        st.tuples(st.just("close"), client),
        st.tuples(st.just("turn"), st.none()),
    ),
    max_size=40,
)


@given(st.lists(members, min_size=3, max_size=3), steps)
def test_everyone_gets_what_it_was_sent_in_order(
    groups: list[frozenset[int]], steps: list[tuple[str, Any]]
) -> None:
    async def run() -> None:
        batch_writer = BatchWriter(asyncio.get_running_loop())
        clients = [Client(batch_writer) for _ in range(COUNT)]
        by_group = [group(clients, members) for members in groups]
        expected = [b""] * COUNT
        is_open = [True] * COUNT

        for number, (step, what) in enumerate(steps):
            sent = frame(number)
            match step:
                case "deliver":
                    batch_writer.broadcast(sent, by_group[what])
                    receivers: Collection[int] = groups[what]
                case "send":
                    clients[what].send_buffer.send(sent)
                    receivers = [what]
                case "send_all":
                    # Equal frames, so that the bytes of two are expected once below and once here.
                    clients[what].send_buffer.send_all(Frames([sent, sent]))
                    expected[what] += sent.make_wire() if is_open[what] else b""
                    receivers = [what]
                case "put":
                    clients[what].send_buffer.write_frame(sent.make_wire())
                    receivers = [what]
                case _:
                    receivers = []
            for receiver in receivers:
                if is_open[receiver]:
                    expected[receiver] += sent.make_wire()
            match step:
                case "flush":
                    clients[what].send_buffer.flush()
                case "block":
                    clients[what].send_buffer.block()
                case "unblock":
                    clients[what].send_buffer.unblock()
                case "close" if is_open[what]:
                    clients[what].send_buffer.close(4200, FINAL_FRAME)
                    expected[what] += FINAL_FRAME.make_wire() + b"closed"
                    is_open[what] = False
                case "turn":
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)

        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for each in clients:
            each.send_buffer.unblock()
            assert each.send_buffer.is_empty
        assert [each.received for each in clients] == expected

    asyncio.run(run())


@pytest.fixture
async def batch_writer() -> BatchWriter:
    return BatchWriter(asyncio.get_running_loop())


@pytest.fixture
def clients(batch_writer: BatchWriter) -> list[Client]:
    return [Client(batch_writer) for _ in range(COUNT)]


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_what_is_delivered_to_a_group_in_a_turn_is_one_write_for_each(
    batch_writer: BatchWriter, clients: list[Client]
) -> None:
    everyone = group(clients, range(COUNT))
    for number in range(5):
        batch_writer.broadcast(frame(number), everyone)
    assert [each.writes for each in clients] == [[]] * COUNT

    await turn()

    data = b"".join(frame(number).make_wire() for number in range(5))
    assert [each.writes for each in clients] == [[data]] * COUNT
    # Joined once: all have written the very same bytes.
    assert len({id(each.writes[0]) for each in clients}) == 1


async def test_who_is_sent_its_own_meanwhile_has_one_write_too(
    batch_writer: BatchWriter, clients: list[Client]
) -> None:
    """As a publisher that subscribes to its own topic."""
    everyone = group(clients, range(COUNT))
    batch_writer.broadcast(frame(1), everyone)
    clients[0].send_buffer.send(frame(2))
    batch_writer.broadcast(frame(3), everyone)
    clients[0].send_buffer.send(frame(4))

    await turn()

    assert clients[0].writes == [b"".join(frame(number).make_wire() for number in (1, 2, 3, 4))]
    assert clients[1].writes == [b"".join(frame(number).make_wire() for number in (1, 3))]


async def test_a_close_that_discards_takes_the_batch_with_it(
    batch_writer: BatchWriter, clients: list[Client]
) -> None:
    everyone = group(clients, range(COUNT))
    batch_writer.broadcast(frame(1), everyone)
    clients[0].send_buffer.close(4100, FINAL_FRAME, discard=True)
    batch_writer.broadcast(frame(2), everyone)

    await turn()

    assert clients[0].received == FINAL_FRAME.make_wire() + b"closed"
    assert clients[1].received == frame(1).make_wire() + frame(2).make_wire()


async def test_one_whose_connection_broke_takes_nothing_and_disturbs_nobody(
    batch_writer: BatchWriter, clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes) -> None:
        raise RuntimeError("the handler is closed")

    monkeypatch.setattr(clients[0], "write", broken)
    everyone = group(clients, range(COUNT))
    batch_writer.broadcast(frame(1), everyone)
    await turn()
    batch_writer.broadcast(frame(2), everyone)
    await turn()

    assert not clients[0].send_buffer.is_open
    assert [each.received for each in clients[1:]] == [
        frame(1).make_wire() + frame(2).make_wire()
    ] * (COUNT - 1)


async def test_nothing_is_kept_of_a_turn_that_is_over(
    batch_writer: BatchWriter, clients: list[Client]
) -> None:
    batch_writer.broadcast(frame(1), group(clients, range(COUNT)))
    clients[0].send_buffer.send(frame(2))
    await turn()
    clients[0].send_buffer.close(4100, FINAL_FRAME, discard=True)
    await turn()

    assert not batch_writer.group
    assert not batch_writer.batch.frames


async def test_another_receiver_of_a_broadcast_costs_one_call(batch_writer: BatchWriter) -> None:
    """The write on its stream. A second one would be a measurable part of each delivery."""

    async def calls(receivers: int) -> int:
        everyone = group([Client(batch_writer) for _ in range(receivers)], range(receivers))
        batch_writer.broadcast(frame(1), everyone)
        counted = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal counted
            counted += event == "call"

        gc.disable()  # it may call what others have registered
        sys.setprofile(count)
        try:
            await turn()
        finally:
            sys.setprofile(None)
            gc.enable()
        return counted

    assert await calls(200) - await calls(100) == 100
