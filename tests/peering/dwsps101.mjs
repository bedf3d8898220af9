// Speaks what a dwsps 1.0.1 server speaks to clients and to its peers, and no more: acks without ids, peers as
// plain URLs, the flag and nothing else on what it forwards. It ignores what it does not know.
//
// node dwsps101.mjs PORT [PEER_URL …]
import { createRequire } from 'node:module';

const require = createRequire(new URL('../js/package.json', import.meta.url));
const { WebSocket, WebSocketServer } = require('ws');

const [port, ...peerUrls] = process.argv.slice(2);
const subscriptions = new Map(); // socket -> Set of topics
const peers = peerUrls.map((url) => connect(url));

// Its peers are connected to at the start; that it tries again is the test's convenience.
function connect(url) {
  const peer = { socket: null, waiting: [] };
  const open = () => {
    const socket = new WebSocket(url);
    socket.on('open', () => {
      peer.socket = socket;
      for (const text of peer.waiting.splice(0)) socket.send(text);
    });
    socket.on('message', () => {});
    socket.on('error', () => {});
    socket.on('close', () => {
      peer.socket = null;
      setTimeout(open, 200);
    });
  };
  open();
  return peer;
}

function forward(text) {
  for (const peer of peers) {
    if (peer.socket) peer.socket.send(text);
    else peer.waiting.push(text);
  }
}

function deliver(message) {
  const levels = message.topic.split('.');
  for (let length = levels.length; length > 0; length -= 1) {
    const context = levels.slice(0, length).join('.');
    for (const [socket, topics] of subscriptions) {
      if (topics.has(context)) socket.send(JSON.stringify({ ...message, context }));
    }
  }
}

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(port) });
server.on('connection', (socket) => {
  subscriptions.set(socket, new Set());
  socket.on('close', () => subscriptions.delete(socket));
  socket.on('message', (data) => {
    const { type, topic, message, timestamp, fromPeerServer } = JSON.parse(data);
    if (type === 'subscribe') subscriptions.get(socket).add(topic);
    if (type === 'unsubscribe') subscriptions.get(socket).delete(topic);
    if (type === 'publish') {
      const published = { type, timestamp, topic, message };
      if (fromPeerServer) published.fromPeerServer = true;
      deliver(published);
      if (!fromPeerServer) forward(JSON.stringify({ ...published, fromPeerServer: true }));
    }
    socket.send(JSON.stringify({ type: 'ack', action: type, timestamp: new Date(), topic }));
  });
});
