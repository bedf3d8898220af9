import assert from 'node:assert/strict'
import { test } from 'node:test'
import { clock, connect, next, open, record, serve, serveOld, until } from './helpers.mjs'

test('a client that only listens gives up a dead connection and reconnects', async (t) => {
  const server = await serve(t)
  const client = await open(t, server, { keepAlive: 40, timeout: 60 })
  const got = []
  await client.subscribe('a', ({ message }) => got.push(message))
  server.decide = () => 'ignore' // as a router that has forgotten the connection
  const { code, reason } = await next(client, 'close')
  assert.deepEqual([code, reason], [1006, 'the server was silent for 60 ms'])
  server.decide = () => undefined
  await until(() => client.state === 'open')
  server.deliver({ type: 'publish', topic: 'a', message: 1 })
  await until(() => got.length === 1)
})

test('by default that takes less than 40 s', async (t) => {
  const server = await serve(t)
  const timers = clock(t)
  const client = await open(t, server)
  server.decide = () => 'ignore'
  timers.tick(24_999)
  assert.equal(client.state, 'open')
  timers.tick(15_000)
  assert.equal(client.state, 'reconnecting')
})

for (const [what, start] of [['this server', serve], ['dwsps 1.0.1', serveOld]]) {
  test(`${what} answers, and no listener gets the ack`, async (t) => {
    const server = await start(t)
    const client = await open(t, server, { keepAlive: 10, timeout: 5_000 })
    await client.subscribe('keep-alive')
    const emitted = ['ack', 'error', 'close', 'message'].map((event) => record(client, event))
    await until(() => server.sent('unsubscribe').length >= 3)
    assert.deepEqual(emitted, [[], [], [], []])
    assert.deepEqual(server.topics, ['keep-alive'], 'the topic of the question is nobody\'s')
  })
}

test('the connection is tested after the silence of keepAlive, and not before', async (t) => {
  const server = await serve(t)
  const timers = clock(t)
  const client = await open(t, server)
  const acks = record(client, 'ack')
  for (let round = 1; round <= 3; round++) {
    timers.tick(24_000)
    server.broadcast({ type: 'ack', action: 'publish', topic: 'x', id: 'x' })
    await until(() => acks.length === round)
  }
  timers.tick(24_000)
  await client.publish('a', 1)
  assert.deepEqual(server.sent('unsubscribe'), [])
  timers.tick(25_000)
  await until(() => server.sent('unsubscribe').length === 1)
})

test('keepAlive 0: never tested', async (t) => {
  const server = await serve(t)
  const client = connect(t, server, { keepAlive: 0 })
  const asked = connect(t, server, { keepAlive: 5 })
  await Promise.all([client, asked].map((each) => next(each, 'open')))
  server.decide = (frame, socket) => void (socket.frames = (socket.frames ?? 0) + 1)
  await until(() => [...server.sessions.keys()].some((socket) => socket.frames > 3))
  assert.deepEqual([...server.sessions.keys()].map((socket) => socket.frames > 0).sort(), [false, true])
})
