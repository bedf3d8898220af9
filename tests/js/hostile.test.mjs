/** A hostile server: none of its frames ends the client's process, which then works with the next server. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { test } from 'node:test'
import { WebSocketServer } from 'ws'
import { open, record, serve } from './helpers.mjs'

const DEEP = 20_000 // JSON.parse takes it, JSON.stringify does not
const deep = '['.repeat(DEEP) + ']'.repeat(DEEP)
const evil = '{"toString":1,"valueOf":2,"then":3,"length":-1,"__proto__":{"polluted":true}}'

const FRAMES = [
  ...['', 'null', '7', '"x"', '[]', '{', '{}', '\ud800', evil, deep, `{"type":${deep}}`],
  ...['publish', 'ack', 'error', 'reset', 'unsubscribed', 'expiring', 'constructor', '__proto__', 'toString'].flatMap((type) => [
    `{"type":"${type}"}`,
    `{"type":"${type}","topic":"__proto__","action":"subscribe","code":"x"}`,
    ...['id', 'topic', 'context', 'action', 'code', 'reason', 'retryable', 'message', 'timestamp', 'cursor', 'expiresIn'].flatMap((field) =>
      [evil, 'null', '-1', '[]', deep].map(
        (value) => `{"type":"${type}","topic":"__proto__","action":"subscribe","code":"x","${field}":${value}}`,
      ),
    ),
  ]),
  `{"type":"publish","topic":"__proto__","message":{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}}}}`,
  `{"type":"publish","topic":"__proto__","message":"${'x'.repeat(4 * 1024 * 1024)}"}`,
  Buffer.alloc(0),
  Buffer.from([0xff, 0xfe, 0x00]),
]

const CODES = [4001, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1014, 3000, 3999, 4100, 4102, 4199, 4200, 4299, 4300, 4999]

/** The server's behaviour, one function a connection; each ends its connection. */
const DEEDS = [
  ...['\x00\xff\r\n\r\n', 'HTTP/1.1 503 Later\r\n\r\n', 'HTTP/1.1 301 There\r\nLocation: file:///etc/passwd\r\n\r\n'].map(
    (answer) => (request, socket) => socket.end(answer),
  ),
  (request, socket) => socket.destroy(),
  (request, socket) => socket.end('HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n'),
  accepted((socket) => {
    for (const frame of FRAMES) socket.send(frame, { binary: typeof frame !== 'string' })
    socket.close(1011)
  }),
  accepted((socket) => {
    for (let n = 0; n < 5_000; n++) socket.send('{"type":"error","code":"rate_limited","reason":"","retryable":true}')
    for (let n = 0; n < 1_000; n++) socket.ping()
    socket.close(4102, 'x'.repeat(123))
  }),
  // Frames that RFC 6455 does not know: reserved bits and opcodes, fragments out of order, lengths beyond all bounds.
  ...['f000', '8300', '8b00', '0001aa', '81ff', '8200820080', '817f7fffffffffffffff', '89ff', '8801ff', '880303e8ff'].map(
    (bytes) => accepted((socket, raw) => raw.end(Buffer.from(bytes, 'hex'))),
  ),
  ...CODES.map((code) => accepted((socket) => socket.close(code, '\u0000\u001b[2J'))),
]

function accepted(act) {
  return (request, raw, head, wss) => wss.handleUpgrade(request, raw, head, (socket) => act(socket.on('error', () => {}), raw))
}

/** The sources of a WebSocket: the line that imports it, and Node's arguments. */
const SOURCES = {
  'the package ws': [`import { WebSocket } from './helpers.mjs'`],
  'Node itself': ['const { WebSocket } = globalThis', '--experimental-websocket', '--no-warnings'],
}

for (const [source, [line, ...flags]] of Object.entries(SOURCES)) {
  test(`with the WebSocket of ${source}, a process without an error listener survives`, (t) => outlives(t, line, flags))
}

async function outlives(t, line, flags) {
  const wss = new WebSocketServer({ noServer: true })
  const http = createServer().listen(0, '127.0.0.1')
  await once(http, 'listening')
  t.after(() => http.close())
  const good = accepted((socket) => {
    socket.on('message', (data) => {
      const { type, topic, id } = JSON.parse(data)
      socket.send(JSON.stringify({ type: 'ack', action: type, topic, id }))
      if (type === 'publish') socket.send(JSON.stringify({ type, topic, message: 'the end' }))
    })
  })
  const deeds = [...DEEDS]
  http.on('upgrade', (request, raw, head) => {
    raw.on('error', () => {})
    const act = deeds.shift() ?? good
    act(request, raw, head, wss)
  })
  const script = `
    ${line}
    import { PSClient } from './helpers.mjs'
    const options = { WebSocket, token: async () => 't', minDelay: 1, maxDelay: 1, timeout: 500 }
    const client = new PSClient('ws://127.0.0.1:${http.address().port}', options)
    const handler = ({ message }) => {
      JSON.stringify(message) // too deep for it: the handler throws
      if (message !== 'the end') return
      console.log('alive', {}.polluted, Object.keys(Object.prototype))
      client.close()
    }
    client.on('open', () => {
      client.subscribe('__proto__', handler, { grant: async () => 'g' }) // a server may have refused it
      client.publish('__proto__', 1)
    })
    client.on('close', async () => { throw new Error('a listener of the user') })`
  const child = spawn(process.execPath, [...flags, '--input-type=module', '--eval', script], { cwd: import.meta.dirname })
  let output = ''
  let complaints = ''
  child.stdout.on('data', (data) => (output += data))
  child.stderr.on('data', (data) => (complaints += data))
  const [status] = await once(child, 'close')
  assert.deepEqual([status, output, deeds.length], [0, 'alive undefined []\n', 0], complaints.slice(-2_000))
}

test('each kind of invalid frame goes to "error" listeners and answers nothing', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const emitted = record(client, 'error')
  const bad = [
    '{',
    'null',
    '{"type":"publish"}',
    '{"type":"error","code":{}}',
    '{"type":"error","code":"x","reason":{"toString":1}}',
    '{"type":"ack","action":"publish","topic":7}',
    '{"type":"publish","topic":"a","context":[]}',
    '{"type":"expiring","expiresIn":{}}',
    '{"type":"unsubscribed","topic":{}}',
    '{"type":"unsubscribed","topic":"a","reason":null}',
  ]
  for (const frame of bad) server.broadcast(frame)
  server.broadcast('{"type":"of a later protocol","topic":7}')
  await client.publish('a', 1)
  assert.deepEqual(emitted.map(({ code, retryable }) => [code, retryable]), bad.map(() => ['invalid_frame', false]))
})
