"""The way of a publish, from the reader to the socket, is short: how many Python functions it calls.

A function call costs as much as anything else on this way, which every message goes.
"""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.node import Node
from dwsps_channels.core.observer import Observer
from dwsps_channels.core.services import Services
from dwsps_channels.core.session import Session
from dwsps_channels.policies import AllowAll
from tests.core.recording import RecordingTransport, publish, subscribe

# Measured before there were a node and a broker that gives everything back. Lower them when you shorten the way.
CALLS_TO_THE_FIRST_DELIVERY = 12
CALLS_TO_THE_ACK = 19
# To look into the memory of keys, and to remember one.
CALLS_FOR_A_KEY = 2


def calls_of(function: Callable[[], object]) -> list[str]:
    """The names of the Python functions that are called."""
    names: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            names.append(frame.f_code.co_name)

    # What is collected, of other tests perhaps, may call as well.
    gc.disable()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return names[1:]


@pytest.fixture
async def node() -> Node:
    broker = MemoryBroker()
    node = Node("here", broker)
    await broker.start(node)
    return node


def session(node: Node, observers: tuple[Observer, ...]) -> tuple[Session, RecordingTransport]:
    transport = RecordingTransport()
    opened = Session(Services(node, AllowAll(), observers), transport, Identity("client"), Limits())
    return opened, transport


@pytest.mark.parametrize("observers", [(), (Observer(),)], ids=["no observer", "signals"])
def test_a_publish_needs_no_more_calls_than_it_did(
    node: Node, observers: tuple[Observer, ...]
) -> None:
    (publisher, acks), (subscriber, deliveries) = session(node, observers), session(node, observers)
    subscriber.receive(subscribe("news"))
    frame = publish("news.uk", {"a": 1}, timestamp="2020-01-21T17:03:13.625Z", id=1)
    publisher.receive(frame)  # remembers the topic's contexts
    acks.frames.clear()
    deliveries.frames.clear()

    calls = calls_of(lambda: publisher.receive(frame))

    assert (len(deliveries.frames), len(acks.frames)) == (1, 1)
    assert calls[0] == "receive"
    assert calls.index("send") + 1 <= CALLS_TO_THE_FIRST_DELIVERY
    assert len(calls) <= CALLS_TO_THE_ACK - (not observers)


def test_a_key_costs_no_more_than_its_memory(node: Node) -> None:
    publisher, acks = session(node, ())

    def calls_for(**key: str) -> int:
        frame = publish("news.uk", {"a": 1}, timestamp="2020-01-21T17:03:13.625Z", id=1, **key)
        return len(calls_of(lambda: publisher.receive(frame)))

    calls_for(key="first")  # finds out who the user is

    assert calls_for(key="second") <= calls_for() + CALLS_FOR_A_KEY
    assert len(acks.frames) == 3
