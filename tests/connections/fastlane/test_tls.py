"""The fast lane on a TLS connection: uvicorn's ``--ssl-keyfile`` and ``--ssl-certfile``."""

import asyncio
import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.connections.fastlane.certificate import Certificate, make_certificate
from tests.connections.fastlane.conftest import APPLICATION
from tests.connections.fastlane.raw import CLOSE, TEXT, RawClient, Received, close, frame
from tests.processes import HOST, Server, ServerFactory, wait_until, wait_until_async
from tests.wire.client import WireClient, connected

MIB = 1024 * 1024
DRAIN_TIMEOUT = 30.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def trust(certificate: Certificate) -> ssl.SSLContext:
    return certificate.trust()


StartEncrypted = Callable[..., Server]


@pytest.fixture
def start_encrypted(start_server: ServerFactory, certificate: Certificate) -> StartEncrypted:
    """As ``start_server``, without the kind."""

    def start(*arguments: str, **options: object) -> Server:
        return start_server("fastlane", *certificate.arguments, *arguments, **options)  # type: ignore[arg-type]

    return start


@pytest.fixture(scope="module")
def encrypted(certificate: Certificate, start_shared_server: ServerFactory) -> Server:
    """The demo project over TLS, one a module. Leave it as you found it."""
    return start_shared_server("fastlane", *certificate.arguments)


def url(server: Server, path: str = "/") -> str:
    return f"wss://{HOST}:{server.port}{path}"


class EncryptedClient(RawClient):
    """Sends any bytes whatever, in TLS. An end without TLS's own ``close_notify`` is an error."""

    def __init__(self, port: int, trust: ssl.SSLContext) -> None:
        super().__init__(port)
        # Small and fixed, so that the kernel does not read ahead much.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self.socket = trust.wrap_socket(
            self.socket, server_hostname=HOST, suppress_ragged_eofs=False
        )

    def part(self) -> list[Received]:
        """Read to the server's close frame, answer it, and see TLS end; all that came."""
        received = [self.receive()]
        while received[-1].opcode != CLOSE:
            received.append(self.receive())
        self.send(frame(CLOSE, received[-1].payload))
        assert self.rest() == b""
        return received

    def subscribe(self, topic: str) -> None:
        self.open("/")
        self.send(frame(TEXT, json.dumps({"type": "subscribe", "topic": topic}).encode()))
        assert b'"ack"' in self.receive().payload


@contextmanager
def encrypted_client(port: int, trust: ssl.SSLContext) -> Iterator[EncryptedClient]:
    client = EncryptedClient(port, trust)
    with client.socket:
        yield client


async def test_what_is_published_arrives_once_and_in_order(
    encrypted: Server, trust: ssl.SSLContext
) -> None:
    count = 2_000
    async with (
        connected(url(encrypted), ssl=trust) as reader,
        connected(url(encrypted), ssl=trust) as writer,
    ):
        await reader.subscribe("news")
        await writer.subscribe("news")
        for number in range(count):
            await writer.send({"type": "publish", "topic": "news.uk", "message": number})
        assert [(await reader.receive())["message"] for _ in range(count)] == list(range(count))
        await reader.nothing_more()
        answers = [await writer.receive() for _ in range(2 * count)]
        assert [answer["type"] for answer in answers] == ["publish", "ack"] * count
        await writer.nothing_more()
        # It may have 64 KiB, in one record of TLS or in several.
        await reader.publish_and_receive("news", "x" * 65_000)
        assert (await writer.receive())["message"] == "x" * 65_000


async def test_project_s_other_consumers_are_served(
    start_encrypted: StartEncrypted, trust: ssl.SSLContext
) -> None:
    server = start_encrypted(application=APPLICATION)
    async with connect(url(server, "/echo/"), ssl=trust) as client:
        for message in ("x" * 300_000, b"\xff" * 300_000):
            await client.send(message)
            assert await client.recv() == message
    async with connect(url(server, "/scope/tls/"), ssl=trust) as client:
        assert json.loads(await client.recv())["scheme"] == "wss"
    with pytest.raises(InvalidStatus, match="403"):
        async with connect(url(server, "/refusing/"), ssl=trust):
            pass


class TestEnd:
    """Whichever side closes, the code arrives before TLS's own end."""

    def test_client_s_close_is_answered_with_its_code(
        self, encrypted: Server, trust: ssl.SSLContext
    ) -> None:
        with encrypted_client(encrypted.port, trust) as client:
            client.subscribe("news")
            client.send(close(4321, b"enough"))
            assert client.receive() == (CLOSE, (4321).to_bytes(2, "big"))
            assert client.rest() == b""

    def test_application_s_close_has_its_code_and_reason(
        self, start_encrypted: StartEncrypted, trust: ssl.SSLContext
    ) -> None:
        server = start_encrypted(application=APPLICATION)
        with encrypted_client(server.port, trust) as client:
            client.open("/closing/")
            client.send(frame(TEXT, b"close"))
            assert client.part() == [(CLOSE, (4321).to_bytes(2, "big") + b"as you said")]

    def test_violation_is_told_to_who_goes_on_sending(
        self, encrypted: Server, trust: ssl.SSLContext
    ) -> None:
        with encrypted_client(encrypted.port, trust) as client:
            client.open("/")
            client.send(frame(TEXT, b"not masked", mask=None), frame(TEXT, b"x" * 60_000) * 3)
            end = client.receive()
            assert (end.opcode, end.payload[:2]) == (CLOSE, (1002).to_bytes(2, "big"))

    async def test_sigterm_sends_everybody_away_to_come_back(
        self, start_encrypted: StartEncrypted, trust: ssl.SSLContext
    ) -> None:
        server = start_encrypted()
        async with (
            connected(url(server), ssl=trust) as one,
            connected(url(server), ssl=trust) as two,
        ):
            await one.subscribe("news")
            ended = asyncio.create_task(asyncio.to_thread(server.terminate, DRAIN_TIMEOUT))
            for client in (one, two):
                assert (await client.receive())["code"] == "unavailable"
                with pytest.raises(ConnectionClosed) as closed:
                    await client.receive()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4200
            assert await ended == 0
        assert "Traceback" not in server.log

    async def test_client_that_does_not_read_cannot_hold_up_the_server_s_end(
        self, start_encrypted: StartEncrypted, trust: ssl.SSLContext
    ) -> None:
        server = start_encrypted()
        with encrypted_client(server.port, trust) as slow:
            slow.subscribe("slow")
            async with connected(url(server), ssl=trust) as writer:
                # More than the kernel takes, less than what the server would close it for.
                for _ in range(12):
                    await writer.publish("slow", "x" * 60_000)
            assert await asyncio.to_thread(server.terminate, DRAIN_TIMEOUT) == 0
        assert "Traceback" not in server.log


class TestSlowReader:
    async def test_it_is_closed_and_slows_nobody(
        self, start_encrypted: StartEncrypted, trust: ssl.SSLContext
    ) -> None:
        """40 MiB go past it: memory stays, the other reader gets every message."""
        # What is kept for a worker that is away is not what is measured here.
        server, count = start_encrypted(dwsps={"TAIL_BYTES": 1}), 700
        with encrypted_client(server.port, trust) as slow:
            slow.subscribe("slow")
            async with (
                connected(url(server), ssl=trust) as reader,
                connected(url(server), ssl=trust) as writer,
            ):
                await reader.subscribe("slow")
                await writer.publish("other", "x" * 60_000)
                before, peak = server.rss(), Peak(server)
                with peak:
                    reading = asyncio.create_task(self.read(reader, count))
                    for number in range(count):
                        await writer.publish("slow", [number, "x" * 60_000])
                    assert await reading == list(range(count))
                assert peak.bytes - before < 8 * MIB
            assert server.log.count("bytes were waiting to be read") == 1

    async def read(self, reader: WireClient, count: int) -> list[int]:
        return [(await reader.receive(60))["message"][0] for _ in range(count)]

    async def test_it_is_cut_off_if_it_does_not_read_on(
        self, start_encrypted: StartEncrypted, trust: ssl.SSLContext
    ) -> None:
        server = start_encrypted(dwsps={"MAX_BUFFERED_BYTES": 256 * 1024})
        with encrypted_client(server.port, trust) as slow:
            slow.subscribe("slow")
            end = server_end(server, slow)
            await self.overfill(server, trust)
            await until_closed(server, end, "the server lets go of it")
        assert "Traceback" not in server.log

    async def test_one_that_reads_again_learns_why(
        self, start_encrypted: StartEncrypted, trust: ssl.SSLContext
    ) -> None:
        server = start_encrypted(
            dwsps={"MAX_BUFFERED_BYTES": 256 * 1024}, application="tests.wire.lenient:application"
        )
        with encrypted_client(server.port, trust) as slow:
            slow.subscribe("slow")
            passed = await self.overfill(server, trust)
            *deliveries, error, end = await asyncio.to_thread(slow.part)
        assert error.opcode == TEXT
        told = json.loads(error.payload)
        assert (told["type"], told["code"], told["retryable"]) == ("error", "unavailable", True)
        assert "too slow" in told["reason"]
        assert end == (CLOSE, (4100).to_bytes(2, "big"))
        # What was on its way is whole and in order; what waited for it was dropped.
        numbers = [json.loads(delivery.payload)["message"][0] for delivery in deliveries]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) < passed

    async def overfill(self, server: Server, trust: ssl.SSLContext) -> int:
        """Publish until the server gives up a reader; how many messages that took."""
        async with connected(url(server), ssl=trust) as writer:
            for number in range(300):
                if "bytes were waiting to be read" in server.log:
                    return number
                await writer.publish("slow", [number, "x" * 60_000])
        raise AssertionError("17 MiB wait for a client, and 0.25 may")


class Peak:
    """The most memory that a process has had while this was open."""

    def __init__(self, process: Server) -> None:
        self.bytes = process.rss()
        self._process = process
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, self._process.rss())

    def __enter__(self) -> None:
        self._watching.start()

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._watching.join()


async def test_publisher_that_reads_late_is_made_to_wait_and_loses_nothing(
    encrypted: Server, trust: ssl.SSLContext
) -> None:
    """It sends more than all the buffers hold before it reads what it is subscribed to itself."""
    count, sent = 8_000, 0
    # Its ends of the connection are small and fixed, so that the kernel does not hold much.
    plain = socket.socket()
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        plain.setsockopt(socket.SOL_SOCKET, option, 64 * 1024)
    plain.connect((HOST, encrypted.port))
    async with connected(url(encrypted), ssl=trust, sock=plain) as client:
        await client.subscribe("fast")

        async def send() -> None:
            nonlocal sent
            for sent in range(1, count + 1):
                message = [sent, "x" * 2_000]
                await client.send({"type": "publish", "topic": "fast", "message": message})

        async def is_stuck() -> bool:
            before = sent
            await asyncio.sleep(0.5)
            return sent == before

        sending = asyncio.create_task(send())
        await wait_until_async(is_stuck, what="the publisher waits, or is done")
        assert sent < count
        for number in range(1, count + 1):
            assert (await client.receive())["message"][0] == number
            assert (await client.receive())["type"] == "ack"
        await sending


def resets(client: EncryptedClient) -> None:
    # Lingering for no time: the kernel sends a reset in place of an end.
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def ends_without_tls_s_end(client: EncryptedClient) -> None:
    client.socket.close()


def ends_within_a_frame(client: EncryptedClient) -> None:
    client.send(frame(TEXT, b"x" * 1000)[:500])
    client.socket.close()


def ends_tls_alone(client: EncryptedClient) -> None:
    """It says that it has nothing more to send, and stays."""
    client.socket.settimeout(0)
    assert isinstance(client.socket, ssl.SSLSocket)
    with suppress(ssl.SSLWantReadError):  # the server may be so quick to say so, too
        client.socket.unwrap()


def beneath_tls(client: EncryptedClient) -> socket.socket:
    return socket.socket(fileno=os.dup(client.socket.fileno()))


def ends_within_a_record(client: EncryptedClient) -> None:
    with beneath_tls(client) as beneath:
        beneath.sendall(b"\x17\x03\x03\x04\x00" + b"x" * 100)
    client.socket.close()


def sends_what_is_no_tls(client: EncryptedClient) -> None:
    with beneath_tls(client) as beneath:
        beneath.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")


def is_silent(client: EncryptedClient) -> None:
    """It reads nothing, answers no ping, and does not go."""


VANISHING: list[Callable[[EncryptedClient], None]] = [
    resets,
    ends_without_tls_s_end,
    ends_within_a_frame,
    ends_tls_alone,
    ends_within_a_record,
    sends_what_is_no_tls,
    is_silent,
]


async def test_clients_that_vanish_are_forgotten(
    start_encrypted: StartEncrypted, trust: ssl.SSLContext
) -> None:
    server = start_encrypted("--ws-ping-interval", "2", "--ws-ping-timeout", "2")
    for vanish in VANISHING:
        with encrypted_client(server.port, trust) as client:
            client.subscribe("news")
            end = server_end(server, client)
            vanish(client)
            await until_closed(server, end, f"the server lets go of who {vanish.__name__}")
        async with connected(url(server), ssl=trust) as other:
            await other.subscribe("news")
            await other.publish_and_receive("news", 1)
    async with connected(url(server), ssl=trust) as other:
        await other.subscribe("news")
        ended = asyncio.create_task(asyncio.to_thread(server.terminate, DRAIN_TIMEOUT))
        assert (await other.receive())["code"] == "unavailable"
    assert await ended == 0
    assert "sessions closed, as the server is going away: 1" in server.log
    assert "Traceback" not in server.log


def test_who_never_gets_as_far_as_tls_does_no_harm(
    encrypted: Server, trust: ssl.SSLContext
) -> None:
    for hello in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection((HOST, encrypted.port), timeout=30) as plain:
            plain.sendall(hello)
    with encrypted_client(encrypted.port, trust) as client:
        client.subscribe("news")
        assert client.is_alive()
    assert "Traceback" not in encrypted.log


def server_end(server: Server, client: RawClient) -> str:
    """The server's socket of a connection, by the kernel's name for it."""
    local, remote = f":{server.port:04X}", f":{client.socket.getsockname()[1]:04X}"

    def found() -> set[str]:
        lines = Path("/proc/net/tcp").read_text().splitlines()
        return {
            f"socket:[{fields[9]}]"
            for fields in map(str.split, lines)
            if fields[1].endswith(local) and fields[2].endswith(remote)
        }

    # A table that changes while it is read may lack a line.
    [end] = wait_until(found)
    return end


async def until_closed(server: Server, end: str, what: str) -> None:
    await wait_until_async(lambda: end not in open_files(server), what=what)


def open_files(server: Server) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found.add(os.readlink(descriptor))
    return found
