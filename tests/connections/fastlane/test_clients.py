"""Clients that others wrote, with all that they can do."""

import asyncio
import os
import subprocess

from websockets.asyncio.client import connect

from tests.connections.fastlane.conftest import APPLICATION
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
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")


async def test_websockets_of_python(server: Server) -> None:
    async with connect(server.url + "/echo/", ping_interval=0.05) as client:
        await client.send(["in ", "three ", "pieces"])
        assert await client.recv() == "in three pieces"
        await client.send([b"\xff", b"\xfe"])
        assert await client.recv() == b"\xff\xfe"
        waiter = await client.ping(b"payload")
        assert await asyncio.wait_for(waiter, 30) >= 0
        await client.close(4321, "enough")
    assert client.close_code == 4321


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
    assert server.terminate() == 0
