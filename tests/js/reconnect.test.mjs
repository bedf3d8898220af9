import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { clock, connect, next, open, record, serve, until, WebSocket } from './helpers.mjs'

/** A port on which nobody listens. */
async function nowhere() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  await new Promise((resolve) => server.close(resolve))
  return `ws://127.0.0.1:${port}`
}

test('a server that was killed and restarted has the subscriptions again before "open"', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = []
  await client.subscribe('a', ({ message }) => got.push(message))
  await client.subscribe('b.c')
  const states = []
  for (const event of ['close', 'reconnecting', 'open']) client.on(event, () => states.push(`${event} ${client.state}`))
  const closed = next(client, 'close')
  await server.kill()
  const { code, willReconnect } = await closed
  assert.deepEqual([code, willReconnect], [1006, true])
  let seen
  client.once('open', ({ reconnected }) => (seen = [reconnected, server.topics]))
  await server.start()
  await until(() => client.state === 'open')
  assert.deepEqual(seen, [true, ['a', 'b.c']])
  assert.deepEqual(client.subscriptions, ['a', 'b.c'])
  await client.publish('a', 1)
  assert.deepEqual(got, [1])
  assert.deepEqual([...new Set(states)], ['close reconnecting', 'reconnecting reconnecting', 'open open'])
  assert.equal(states.filter((state) => state.startsWith('close')).length, 1, 'failed attempts close nothing')
})

test('"open" says whether it is the first', async (t) => {
  const server = await serve(t)
  const client = connect(t, server)
  assert.deepEqual(await next(client, 'open'), { reconnected: false })
  server.drop()
  assert.deepEqual(await next(client, 'open'), { reconnected: true })
})

test('"open" waits until every subscription is answered', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  await Promise.all([client.subscribe('a'), client.subscribe('b')])
  const held = []
  server.decide = (frame, socket) => {
    if (frame.type !== 'subscribe') return
    held.push(() => server.send(socket, { type: 'ack', action: 'subscribe', topic: frame.topic, id: frame.id }))
    return 'ignore'
  }
  const opens = record(client, 'open')
  server.drop()
  await until(() => held.length === 2)
  const published = client.publish('c', 1)
  held[0]()
  await published // on the wire already, and answered, with one subscription still open
  assert.deepEqual([opens, client.state], [[], 'reconnecting'])
  held[1]()
  await until(() => opens.length === 1)
})

test('a publish without an ack rejects if the connection breaks: it may have arrived or not', async (t) => {
  const server = await serve(t)
  server.decide = () => 'ignore'
  const client = await open(t, server)
  const emitted = next(client, 'error')
  const published = client.publish('a', 1)
  await until(() => server.frames.length === 1)
  server.decide = () => undefined
  server.drop()
  await assert.rejects(published, { code: 'connection_lost', retryable: true, action: 'publish', topic: 'a' })
  assert.equal((await emitted).code, 'connection_lost')
  await client.publish('a', 2)
  assert.deepEqual(server.sent('publish').map(({ message }) => message), [1, 2], 'it is not sent again')
})

test('a subscribe without an ack is settled by the next connection', async (t) => {
  const server = await serve(t)
  server.decide = () => 'ignore'
  const client = await open(t, server)
  const errors = record(client, 'error')
  const got = []
  const subscribed = client.subscribe('a', ({ message }) => got.push(message))
  await until(() => server.frames.length === 1)
  server.decide = () => undefined
  server.drop()
  assert.equal((await subscribed).topic, 'a')
  await client.publish('a', 1)
  assert.deepEqual([got, errors], [[1], []])
})

test('an unsubscribe without an ack resolves: the subscription ended with the connection', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  await client.subscribe('a')
  server.decide = () => 'ignore'
  const unsubscribed = client.unsubscribe('a')
  await until(() => server.sent('unsubscribe').length === 1)
  server.decide = () => undefined
  server.drop()
  assert.equal((await unsubscribed).action, 'unsubscribe')
  await until(() => client.state === 'open')
  await client.publish('b', 1)
  assert.deepEqual(server.topics, [])
})

test('a subscribe that was taken back before the connection broke is cancelled', async (t) => {
  const server = await serve(t)
  server.decide = () => 'ignore'
  const client = await open(t, server)
  const calls = [client.subscribe('a'), client.unsubscribe('a')]
  await until(() => server.frames.length === 2)
  server.decide = () => undefined
  server.drop()
  await assert.rejects(calls[0], { code: 'cancelled' })
  assert.equal((await calls[1]).action, 'unsubscribe')
})

test('offline, publishes wait in order, and only the final subscriptions are sent', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  await client.subscribe('gone')
  const closed = next(client, 'close')
  await server.kill()
  await closed
  server.frames.length = 0
  await client.unsubscribe('gone')
  const calls = [client.publish('a', 1), client.subscribe('a'), client.publish('a', 2)]
  await server.start()
  await Promise.all(calls)
  assert.deepEqual(server.frames.map(({ type, topic, message }) => [type, topic, message]), [
    ['subscribe', 'a', undefined],
    ['publish', 'a', 1],
    ['publish', 'a', 2],
  ])
})

test('a subscription refused for good on reconnecting is dropped, and "error" listeners get the reason', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  await Promise.all([client.subscribe('secret'), client.subscribe('a')])
  const emitted = next(client, 'error')
  server.decide = ({ topic }) => topic === 'secret' && { code: 'forbidden', reason: 'not any more' }
  server.drop()
  const { code, action, topic } = await emitted
  assert.deepEqual([code, action, topic], ['forbidden', 'subscribe', 'secret'])
  await until(() => client.state === 'open')
  assert.deepEqual([client.subscriptions, server.topics], [['a'], ['a']])
})

test('subscriptions put off on reconnecting are asked for again until they are acknowledged', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const topics = ['a', 'b', 'c', 'd', 'e', 'f']
  await Promise.all(topics.map((topic) => client.subscribe(topic)))
  let budget = 2
  server.decide = ({ type }) => {
    if (type === 'subscribe' && budget-- <= 0) return { code: 'rate_limited', reason: 'slowly', retryable: true }
  }
  client.on('error', ({ code }) => code === 'rate_limited' && (budget = 2))
  server.drop()
  await until(() => server.topics.length === topics.length)
  assert.deepEqual(client.subscriptions, topics)
})

test('subscribing again goes out in rounds, each half as large again as the one before', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const topics = Array.from({ length: 16 + 24 + 36 + 54 }, (_, n) => `t${n}`)
  await Promise.all(topics.map((topic) => client.subscribe(topic)))
  const held = []
  server.decide = (frame, socket) => {
    held.push(() => server.send(socket, { type: 'ack', action: frame.type, topic: frame.topic, id: frame.id }))
    return 'ignore'
  }
  const opened = next(client, 'open')
  server.drop()
  const rounds = []
  for (const many of [16, 24, 36, 54]) {
    await until(() => held.length === many)
    await new Promise(setImmediate)
    rounds.push(held.length)
    held.splice(0).forEach((answer) => answer())
  }
  await opened
  assert.deepEqual(rounds, [16, 24, 36, 54])
})

/**
 * A server that allows a connection `burst` frames at once, and closes it after `tolerated` more. It allows one more each `every` ms once it has
 * refused one: else a machine that is slow enough would never meet the limit.
 */
function limitRate(server, burst, every, tolerated) {
  const buckets = new WeakMap()
  server.refused = 0
  server.flooded = 0
  server.decide = (frame, socket) => {
    const now = performance.now()
    const { tokens, at } = buckets.get(socket) ?? { tokens: burst, at: now, inARow: 0 }
    const earned = server.refused ? (now - at) / every : 0
    const bucket = { tokens: Math.min(burst, tokens + earned), at: now, inARow: 0 }
    if (bucket.tokens >= 1) {
      buckets.set(socket, { ...bucket, tokens: bucket.tokens - 1 })
      return undefined
    }
    const inARow = (buckets.get(socket)?.inARow ?? 0) + 1
    buckets.set(socket, { ...bucket, inARow })
    server.refused++
    if (inARow > tolerated) {
      server.flooded++
      socket.close(4102)
    }
    return { code: 'rate_limited', reason: 'slowly', retryable: true }
  }
}

test('"open" waits until all subscriptions are acknowledged, at the pace that the server allows', async (t) => {
  const server = await serve(t)
  const client = await open(t, server, { minDelay: 40, maxDelay: 80 })
  const topics = Array.from({ length: 150 }, (_, n) => `t${n}`)
  await Promise.all(topics.map((topic) => client.subscribe(topic)))
  limitRate(server, 50, 5, 50)
  const errors = record(client, 'error')
  const opened = new Promise((resolve) => client.once('open', () => resolve([server.topics.length, client.state])))
  server.drop()
  // Publishes wait behind them.
  await next(client, 'reconnecting')
  const published = Promise.allSettled([1, 2, 3].map((n) => client.publish('t0', n)))
  assert.deepEqual(await opened, [150, 'open'])
  await published
  assert.deepEqual([server.flooded, client.subscriptions.length], [0, 150])
  assert.ok(server.refused > 0 && server.refused < 100, `${server.refused} refused`)
  assert.ok(errors.every(({ code, retryable }) => code === 'rate_limited' && retryable))
})

test('many subscriptions at once, before and after "open", pass a rate limit', async (t) => {
  const server = await serve(t)
  limitRate(server, 50, 1, 50)
  const client = connect(t, server, { minDelay: 40, maxDelay: 80 })
  const early = Array.from({ length: 150 }, (_, n) => client.subscribe(`early.${n}`))
  await next(client, 'open')
  assert.equal(server.topics.length, 150)
  const late = Array.from({ length: 150 }, (_, n) => client.subscribe(`late.${n}`))
  await Promise.all([...early, ...late])
  assert.deepEqual([server.flooded, server.topics.length, server.accepted], [0, 300, 1])
  // The unsubscribes reach the server, too, or it would go on sending.
  const kept = late.pop()
  await Promise.all([...early, ...late].map((handle) => handle.unsubscribe()))
  assert.deepEqual([server.flooded, server.topics, client.subscriptions], [0, [kept.topic], [kept.topic]])
})

test('a subscription that the server cannot take yet delays "open" until it is acknowledged', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  await Promise.all([client.subscribe('a'), client.subscribe('b')])
  let refusals = 0
  server.decide = ({ type, topic }) => {
    if (type === 'subscribe' && topic === 'a' && refusals++ < 3) return { code: 'unavailable', reason: 'later', retryable: true }
  }
  const emitted = record(client, 'error')
  const opened = next(client, 'open')
  server.drop()
  await opened
  assert.deepEqual(server.topics, ['a', 'b'])
  assert.equal(emitted.length, 3)
})

test('4000 to 4099: the client does not reconnect, and gives the reason', async (t) => {
  for (const code of [4001, 4003, 4099]) {
    const server = await serve(t)
    const client = await open(t, server)
    server.decide = () => 'ignore'
    const calls = [client.publish('a', 1), client.subscribe('b')]
    await until(() => server.frames.length === 2)
    const emitted = next(client, 'error')
    const reconnecting = record(client, 'reconnecting')
    const closed = next(client, 'close')
    server.broadcast({ type: 'error', code: 'forbidden', reason: 'who are you', retryable: false })
    server.close(code) // without a reason, as some servers send it
    assert.deepEqual(await closed, { code, reason: 'who are you', willReconnect: false })
    assert.equal((await emitted).code, 'forbidden')
    for (const call of calls) await assert.rejects(call, { code: 'closed', reason: /who are you/ })
    assert.deepEqual([client.state, client.subscriptions, reconnecting], ['closed', [], []])
  }
})

test('the ceiling of the delay doubles from 0.5 s to 20 s, and the delay is anything below', async (t) => {
  const url = await nowhere()
  const delays = { 1: [], 0.25: [] }
  for (const random of [1, 0.25]) {
    const timers = clock(t, random)
    const client = connect(t, url, { minDelay: undefined, maxDelay: undefined } /* the defaults */)
    const emitted = record(client, 'reconnecting')
    for (let attempt = 1; attempt <= 8; attempt++) {
      await until(() => emitted.length === attempt)
      timers.tick(emitted.at(-1).delay)
    }
    delays[random] = emitted.map(({ delay }) => delay)
    assert.deepEqual(emitted.map(({ attempt }) => attempt), [1, 2, 3, 4, 5, 6, 7, 8])
    assert.match(emitted[0].reason, /ECONNREFUSED/)
    client.close()
  }
  assert.deepEqual(delays[1], [500, 1000, 2000, 4000, 8000, 16000, 20000, 20000])
  assert.deepEqual(delays[0.25], [125, 250, 500, 1000, 2000, 4000, 5000, 5000])
})

test('only a connection that lasted resets the delays', async (t) => {
  const server = await serve(t)
  const timers = clock(t)
  const client = await open(t, server)
  const emitted = record(client, 'reconnecting')
  const cut = async () => {
    const count = emitted.length
    server.drop()
    await until(() => emitted.length > count)
    timers.tick(emitted.at(-1).delay)
    await until(() => client.state === 'open' && server.sessions.size === 1)
  }
  await cut()
  timers.tick(9_999)
  await cut()
  timers.tick(10_000)
  await cut()
  assert.deepEqual(emitted.map(({ attempt }) => attempt), [1, 2, 1])
  assert.deepEqual(emitted.map(({ delay }) => delay), [5, 10, 5])
})

test('4100 to 4199 and unknown codes: reconnect with backoff', async (t) => {
  const server = await serve(t)
  const timers = clock(t)
  for (const code of [4100, 4199, 1000, 1011, 1012, 3000, 4300, 4999]) {
    const client = await open(t, server, { minDelay: 500, maxDelay: 20_000 })
    const emitted = next(client, 'reconnecting')
    server.close(code, 'why')
    assert.deepEqual(await emitted, { attempt: 1, delay: 500, code, reason: 'why' })
    timers.tick(500)
    await until(() => client.state === 'open')
    client.close()
    await until(() => server.sessions.size === 0)
  }
})

test('4200 to 4299: reconnect at once, but only once', async (t) => {
  const server = await serve(t)
  server.welcome = (socket) => socket.close(4200, 'going away')
  const timers = clock(t)
  const client = connect(t, server, { minDelay: 500, maxDelay: 20_000 })
  const emitted = record(client, 'reconnecting')
  for (let attempt = 1; attempt <= 4; attempt++) {
    await until(() => emitted.length === attempt)
    assert.equal(server.accepted, attempt)
    timers.tick(emitted.at(-1).delay)
  }
  assert.deepEqual(emitted.map(({ delay }) => delay), [0, 1000, 2000, 4000])
  server.welcome = () => {}
  await until(() => client.state === 'open')
  timers.tick(10_000)
  server.close(4299)
  await until(() => emitted.length >= 5)
  assert.equal(emitted.at(-1).delay, 0, 'a connection that held earns it again')
})

test('after close(), also from any listener, the client does not reconnect', async (t) => {
  const server = await serve(t)
  for (const event of ['close', 'reconnecting', 'error', 'open']) {
    const client = connect(t, server)
    const reconnecting = record(client, 'reconnecting')
    if (event !== 'open') {
      await next(client, 'open')
      server.decide = () => 'ignore'
      client.publish('a', 1) // its loss is an error
    }
    client.on(event, () => client.close())
    server.drop()
    await until(() => client.state === 'closed', `closed by ${event}`)
    const before = server.accepted
    server.decide = () => undefined
    const other = await open(t, server)
    await other.publish('a', 1)
    assert.equal(server.accepted, before + 1, event)
    assert.ok(reconnecting.length <= (event === 'reconnecting' || event === 'open' ? 1 : 0), event)
    other.close()
  }
})

test('a connection without answers is given up and replaced', async (t) => {
  const server = await serve(t)
  const client = await open(t, server, { timeout: 400 })
  await client.subscribe('a')
  server.decide = () => 'ignore'
  const closed = next(client, 'close')
  const published = client.publish('a', 1)
  const subscribed = client.subscribe('b')
  const { code, reason } = await closed
  assert.equal(code, 1006)
  assert.match(reason, /silent for 400 ms/)
  server.decide = () => undefined
  await assert.rejects(published, { code: 'connection_lost' })
  assert.equal((await subscribed).topic, 'b')
  assert.deepEqual(client.subscriptions, ['a', 'b'])
})

test('a server that accepts the connection and never speaks is tried again', async (t) => {
  let connections = 0
  const sockets = new Set()
  const deaf = createServer((socket) => {
    connections++
    sockets.add(socket.on('error', () => {}))
  }).listen(0, '127.0.0.1')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    deaf.close()
  })
  await once(deaf, 'listening')
  const client = connect(t, `ws://127.0.0.1:${deaf.address().port}`, { timeout: 30 })
  const { code, reason } = await next(client, 'reconnecting')
  assert.deepEqual([code, reason], [1006, 'the server did not accept the connection'])
  await until(() => connections >= 3)
})

test('a refused handshake is tried again with backoff, and its status is in the reason', async (t) => {
  const http = createHttpServer((request, response) => response.writeHead(403).end()).listen(0, '127.0.0.1')
  t.after(() => http.close())
  await once(http, 'listening')
  const client = connect(t, `ws://127.0.0.1:${http.address().port}`)
  const closes = record(client, 'close')
  const { reason } = await next(client, 'reconnecting')
  assert.match(reason, /403/)
  assert.deepEqual(closes, [])
})

test('a WebSocket class that throws on reconnecting does not escape', async (t) => {
  const server = await serve(t)
  let broken = false
  class Moody extends WebSocket {
    constructor(url) {
      if (broken) throw new Error('no token')
      super(url)
    }
  }
  const client = await open(t, server, { WebSocket: Moody })
  const emitted = record(client, 'reconnecting')
  broken = true
  server.drop()
  await until(() => emitted.some(({ reason }) => reason === 'no token'))
  broken = false
  await until(() => client.state === 'open')
})

test('events of an old connection are ignored', async (t) => {
  const server = await serve(t)
  const client = await open(t, server, { timeout: 400 })
  const [old] = server.sessions.keys()
  server.decide = () => 'ignore'
  client.publish('a', 1)
  await next(client, 'close')
  server.decide = () => undefined
  await until(() => client.state === 'open')
  const messages = record(client, 'message')
  if (old.readyState === WebSocket.OPEN) server.send(old, { type: 'publish', topic: 'x', context: 'x', message: 1 })
  await client.publish('a', 2)
  assert.deepEqual([messages, client.state], [[], 'open'])
})
