"""Clients that others wrote, with all that they can do."""

import asyncio
import os
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fastlane.conftest import APPLICATION
from tests.processes import ROOT, Server, ServerFactory, missing, require
from tests.wire.client import connected

WS = r"""
import assert from 'node:assert';
import { once } from 'node:events';
import WebSocket from 'ws';

const socket = new WebSocket(process.env.ECHO_URL, { perMessageDeflate: true });
await once(socket, 'open');
assert.equal(socket.extensions, '');

const echoed = async () => { const [data, binary] = await once(socket, 'message'); return [data, binary]; };

for (const text of ['', 'hello', 'ü☃😀', 'x'.repeat(70000)]) {
  socket.send(text);
  const [data, binary] = await echoed();
  assert.deepEqual([data.toString(), binary], [text, false]);
}
const bytes = Buffer.from(Array.from({ length: 3000 }, (_, index) => index % 256));
socket.send(bytes);
assert.deepEqual(await echoed(), [bytes, true]);

socket.send('in ', { fin: false });
socket.ping('between');
socket.send('three ', { fin: false });
socket.send('pieces', { fin: true });
const [[pong], [joined]] = await Promise.all([once(socket, 'pong'), echoed()]);
assert.equal(pong.toString(), 'between');
assert.equal(joined.toString(), 'in three pieces');

socket.close(4321, 'enough');
const [code] = await once(socket, 'close');
assert.equal(code, 4321);
console.log('done');
"""


def test_ws_of_node(server: Server) -> None:
    node, folder = require("node"), ROOT / "tests" / "js"
    if not (folder / "node_modules" / "ws").exists():
        missing("tests/js has no node_modules: `make test` installs them")
    done = subprocess.run(
        [node, "--input-type=module", "--eval", WS],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "ECHO_URL": server.url + "/echo/"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")


async def test_websockets_of_python(server: Server) -> None:
    async with connect(server.url + "/echo/", ping_interval=0.05) as client:
        await client.send(["in ", "three ", "pieces"])
        assert await client.recv() == "in three pieces"
        await client.send([b"\xff", b"\xfe"])
        assert await client.recv() == b"\xff\xfe"
        waiter = await client.ping(b"payload")
        assert await asyncio.wait_for(waiter, 10) >= 0
        await client.close(4321, "enough")
    assert client.close_code == 4321


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A key for 127.0.0.1, and the certificate that it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "key.pem", tmp_path / "certificate.pem"
    paths[0].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    paths[1].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return paths


async def test_encrypted(start_server: ServerFactory, certificate: tuple[Path, Path]) -> None:
    key, public = certificate
    arguments = ["--ssl-keyfile", str(key), "--ssl-certfile", str(public)]
    server = start_server("fastlane", *arguments, application=APPLICATION)
    url, trust = server.url.replace("ws://", "wss://"), ssl.create_default_context(cafile=public)
    async with connect(url + "/echo/", ssl=trust) as client:
        await client.send("x" * 300_000)
        assert await client.recv() == "x" * 300_000
    async with connected(url + "/pubsub/", ssl=trust) as ours:
        await ours.subscribe("news")
        await ours.publish_and_receive("news", 1)
    async with connect(url + "/echo/", ssl=trust) as client:
        await client.send(["x"] * 70_000)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    with pytest.raises(InvalidStatus, match="403"):
        async with connect(url + "/refusing/", ssl=trust):
            pass


async def test_on_another_event_loop_and_http_protocol(start_server: ServerFactory) -> None:
    """Both choices are the user's; the fast lane only gets less fast."""
    arguments = ["--ws", "dwsps_channels.fastlane:Protocol", "--loop", "asyncio", "--http", "h11"]
    server = start_server("uvicorn", *arguments, application=APPLICATION)
    async with connect(server.url + "/echo/") as client:
        await client.send("x" * 300_000)
        assert await client.recv() == "x" * 300_000
    async with connected(server.url + "/pubsub/") as ours:
        await ours.subscribe("news")
        await ours.publish_and_receive("news", 1)
    assert server.terminate(10) == 0
