"""The connection test: it connects to a peer as a link would, and reports the result."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import msgspec
from msgspec import Struct

from dwsps_channels.client import (
    ConnectError,
    Connection,
    ConnectionClosed,
    Refused,
    open_connection,
)
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.refusal import OPEN_TIMEOUT, brings_secret, reason_of
from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.text import printable

ANSWER_TIMEOUT = 5.0
ANSWER_BYTES = 64 * 1024

# The request that measures the round trip: every server replies to it, and it has no effect on others.
_TOPIC = "dwsps.connection-test"
_ID = 1
_QUESTION = msgspec.json.encode({"type": "subscribe", "topic": _TOPIC, "id": _ID})


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a connection test."""

    ok: bool
    """True if messages would arrive."""
    message: str
    round_trip: float | None = None
    """Seconds between a request and its reply; ``None``: no reply came."""


def probe_all(peers: Sequence[PeerConfig], server_id: str) -> list[ProbeResult]:
    """Test the connections to all ``peers`` in parallel, from synchronous code. Takes 15 s at most.

    ``server_id`` is the id of this server.
    """

    async def run() -> list[ProbeResult]:
        return await asyncio.gather(*(probe(peer, server_id) for peer in peers))

    # In a thread, as this one may run an event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


async def probe(peer: PeerConfig, server_id: str) -> ProbeResult:
    """Connect to ``peer``, identify its server, measure a round trip, and disconnect."""
    result = await _probe(peer, server_id)
    return replace(result, message=printable(result.message))


async def _probe(peer: PeerConfig, server_id: str) -> ProbeResult:
    try:
        async with open_connection(
            peer.url,
            token=peer.secret or None,
            open_timeout=OPEN_TIMEOUT,
            max_size=ANSWER_BYTES,
        ) as connection:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await _ask(connection, peer, server_id)
    except Refused as refused:
        return ProbeResult(False, await reason_of(refused, peer))
    except ConnectError as error:
        return ProbeResult(False, error.problem)
    except ConnectionClosed as closed:
        reason = f": {closed.reason}" if closed.reason else ""
        return ProbeResult(False, f"connects, but is closed at once with {closed.code}{reason}")
    except TimeoutError:
        return ProbeResult(
            False, f"connects, but did not answer within {ANSWER_TIMEOUT:g} s: not a dwsps server?"
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ProbeResult(
            False, "connects, but the other side does not speak the protocol of dwsps"
        )
    except ValueError as error:  # a URL or a secret that was never validated
        return ProbeResult(False, str(error))


async def _ask(connection: Connection, peer: PeerConfig, server_id: str) -> ProbeResult:
    asked_at = perf_counter()
    await connection.send(_QUESTION)
    hello: _Reply | None = None
    while True:
        reply = surrogates.decode(_decoder, await connection.receive())
        if reply.type == "hello":
            hello = reply
        elif reply.type in ("ack", "error"):
            return _judge(peer, hello, reply, perf_counter() - asked_at, server_id)


def _judge(
    peer: PeerConfig, hello: "_Reply | None", reply: "_Reply", round_trip: float, own_id: str
) -> ProbeResult:
    measured = f"round trip {round_trip * 1000:.1f} ms"
    if hello is not None:
        who = f"'{hello.server}', version {hello.version}"
        if hello.server_id == own_id:
            return ProbeResult(False, f"leads to this server itself ({who})", round_trip)
        return ProbeResult(True, f"connects and authenticates at {who}; {measured}", round_trip)
    if peer.dwsps and reply.id != _ID:
        # dwsps 1.0.1 returns no id, and knows no secrets.
        return ProbeResult(
            True, f"connects; a dwsps 1.0.1 server, it seems; {measured}", round_trip
        )
    if reply.id != _ID:
        return ProbeResult(
            False,
            f"connects; a dwsps 1.0.1 server, it seems, and its row does not say so; {measured}",
            round_trip,
        )
    if not peer.secret and brings_secret(peer):
        # A server sends no greeting for a secret in the URL.
        return ProbeResult(
            True,
            f"connects and is accepted; the server does not identify itself; {measured}",
            round_trip,
        )
    wants = (
        "it does not check the secret: a middleware there sets a user, or it is not dwsps for Django"
        if brings_secret(peer)
        else "it needs a secret"
    )
    return ProbeResult(
        False, f"connects, but as an ordinary client: {wants}; {measured}", round_trip
    )


class _Reply(Struct):
    """The fields of a server's frame that this test uses."""

    type: str = ""
    id: Any = None
    server: str = ""
    server_id: str = ""
    version: str = ""


_decoder = msgspec.json.Decoder(_Reply)
