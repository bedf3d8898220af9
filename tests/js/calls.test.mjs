import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { test } from 'node:test'
import { clock, connect, next, open, PSClient, PSError, record, serve, settle, speak, until, WebSocket } from './helpers.mjs'

test('the example of the README of dwsps works as it stands', async (t) => {
  const server = await serve(t)
  const client = connect(t, server)
  const acks = record(client, 'ack')
  const messages = record(client, 'message')
  const handled = []
  client.once('open', () => {
    client.subscribe('news', (message) => handled.push(message))
    client.publish('news', 'Hello news channel!')
    client.publish('news.uk', 'Hello news.uk channel!')
  })
  await until(() => acks.length === 3)
  assert.deepEqual(acks.map(({ action, topic }) => [action, topic]), [
    ['subscribe', 'news'],
    ['publish', 'news'],
    ['publish', 'news.uk'],
  ])
  assert.deepEqual(messages.map(({ type, topic, context, message }) => [type, topic, context, message]), [
    ['publish', 'news', 'news', 'Hello news channel!'],
    ['publish', 'news.uk', 'news', 'Hello news.uk channel!'],
  ])
  assert.deepEqual(handled, messages)
})

test('each call settles with its own ack', async (t) => {
  const client = await open(t, await serve(t))
  const acks = await Promise.all([
    client.subscribe('a'),
    client.publish('a', 1),
    client.publish('a', 2),
    client.unsubscribe('a'),
  ])
  assert.deepEqual(acks.map(({ type, action, topic }) => `${type} ${action} ${topic}`), [
    'ack subscribe a',
    'ack publish a',
    'ack publish a',
    'ack unsubscribe a',
  ])
  assert.equal(new Set(acks.map((ack) => ack.id)).size, 4)
})

test('answers find their calls by id, whatever their order', async (t) => {
  const server = await serve(t)
  server.decide = () => 'ignore'
  const client = await open(t, server)
  const first = client.publish('a', 1)
  const second = client.publish('a', 2)
  await until(() => server.frames.length === 2)
  const [one, two] = server.frames
  server.broadcast({ type: 'error', code: 'forbidden', reason: 'no', retryable: false, id: two.id })
  server.broadcast({ type: 'ack', action: 'publish', topic: 'a', id: one.id })
  assert.equal((await first).id, one.id)
  await assert.rejects(second, { code: 'forbidden', action: 'publish', topic: 'a' })
})

test('a refused call rejects with the fields of the error frame, and "error" listeners get the same', async (t) => {
  const server = await serve(t)
  server.decide = ({ topic }) => topic === 'busy' && { code: 'rate_limited', reason: 'too fast', retryable: true }
  const client = await open(t, server)
  const emitted = next(client, 'error')
  const error = await client.publish('busy', 1).catch((error) => error)
  assert.ok(error instanceof PSError && error instanceof Error)
  assert.deepEqual({ ...error }, {
    code: 'rate_limited', reason: 'too fast', retryable: true, action: 'publish', topic: 'busy', name: 'PSError',
  })
  assert.equal(error.message, 'publish: busy: rate_limited: too fast')
  assert.equal(await emitted, error)
  await assert.rejects(client.subscribe('a..b'), { code: 'invalid_topic', retryable: false, action: 'subscribe' })
  assert.equal((await client.publish('fine', 1)).type, 'ack', 'the connection lives on')
})

test('a refused subscription is gone, with its handler', async (t) => {
  const server = await serve(t)
  server.decide = ({ type }) => type === 'subscribe' && { code: 'forbidden', reason: 'no' }
  const client = await open(t, server)
  const handled = []
  await assert.rejects(client.subscribe('a', (message) => handled.push(message)), { code: 'forbidden' })
  assert.deepEqual(client.subscriptions, [])
  server.decide = () => undefined
  await client.subscribe('a')
  await client.publish('a', 1)
  assert.deepEqual(handled, [])
})

test('a second subscription that is refused leaves the first as it was', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const first = []
  const second = []
  const handler = ({ message }) => first.push(message)
  await client.subscribe('a', handler)
  server.decide = ({ type }) => type === 'subscribe' && { code: 'forbidden', reason: 'once is enough' }
  await assert.rejects(client.subscribe('a', ({ message }) => second.push(message)), { code: 'forbidden' })
  await assert.rejects(client.subscribe('a', handler), { code: 'forbidden' })
  await client.publish('a', 1)
  assert.deepEqual([first, second, client.subscriptions], [[1], [], ['a']])
})

test('an unhandled rejection does not end the process', async (t) => {
  const server = await serve(t)
  const script = `
    import { WebSocket, PSClient } from './helpers.mjs'
    const client = new PSClient('${server.url}', { WebSocket })
    client.subscribe('a..b')
    client.publish('a..b', 1)
    client.publish('a', undefined)
    client.unsubscribe('')
    client.on('open', () => setImmediate(() => {
      client.publish('lost', 1)
      client.close()
      client.publish('late', 1)
      setTimeout(() => console.log('alive'), 20)
    }))`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], { cwd: import.meta.dirname })
  let output = ''
  child.stdout.on('data', (data) => (output += data))
  child.stderr.on('data', (data) => (output += data))
  const status = await new Promise((resolve) => child.on('close', resolve))
  assert.deepEqual([status, output], [0, 'alive\n'])
})

test('a caller that awaits gets the rejection, and an "error" listener gets it in any case', async (t) => {
  const client = await open(t, await serve(t))
  const emitted = record(client, 'error')
  await assert.rejects(async () => await client.publish('', 1), { code: 'invalid_topic' })
  await assert.rejects(client.publish(7, 1), { code: 'invalid_topic' })
  await assert.rejects(client.subscribe(undefined), { code: 'invalid_topic' })
  assert.deepEqual(emitted.map(({ action, code }) => `${action} ${code}`), [
    'publish invalid_topic', 'publish invalid_topic', 'subscribe invalid_topic',
  ])
})

test('a value without a JSON form is refused before it is sent', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const circle = {}
  circle.self = circle
  for (const message of [undefined, () => {}, Symbol('s'), 1n, circle]) {
    await assert.rejects(client.publish('a', message), { code: 'invalid_message', retryable: false, topic: 'a' })
  }
  assert.deepEqual(server.frames, [])
})

test('an error that names no request answers the oldest one, at once', async (t) => {
  const server = await serve(t)
  server.decide = () => 'ignore'
  const client = await open(t, server)
  const emitted = record(client, 'error')
  const calls = [client.publish('a', 1), client.subscribe('b'), client.unsubscribe('c'), client.publish('d', 1)]
  await until(() => server.frames.length === calls.length)
  for (const code of ['invalid_json', 'message_too_large', 'invalid_topic']) {
    server.broadcast({ type: 'error', code, reason: 'no', retryable: false })
  }
  await assert.rejects(calls[0], { code: 'invalid_json', action: 'publish', topic: 'a' })
  await assert.rejects(calls[1], { code: 'message_too_large', action: 'subscribe', topic: 'b' })
  await assert.rejects(calls[2], { code: 'invalid_topic', action: 'unsubscribe', topic: 'c' })
  server.broadcast({ type: 'error', code: 'invalid_topic', reason: 'too long', retryable: false, action: 'publish' })
  await assert.rejects(calls[3], { code: 'invalid_topic', topic: 'd' })
  assert.equal(emitted.length, calls.length)
})

test('an error about the connection answers no call', async (t) => {
  const server = await serve(t)
  server.decide = () => 'ignore'
  const client = await open(t, server)
  const published = client.publish('a', 1)
  await until(() => server.frames.length === 1)
  const emitted = next(client, 'error')
  server.broadcast({ type: 'error', code: 'rate_limited', reason: 'much too fast', retryable: true })
  assert.deepEqual([(await emitted).code, (await emitted).action], ['rate_limited', undefined])
  server.close(4102)
  await assert.rejects(published, { code: 'connection_lost', reason: /4102 much too fast/ })
})

test('half of an emoji arrives in a message; a topic with one is refused before it is sent', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = []
  await client.subscribe('a', ({ message }) => got.push(message))
  await client.publish('a', ['\ud83d', 'x\udc00y', { '\ud83d': 1 }])
  assert.deepEqual(got, [['\ud83d', 'x\udc00y', { '\ud83d': 1 }]])
  const before = server.frames.length
  for (const call of [() => client.publish('a\ud83d', 1), () => client.subscribe('\udc00'), () => client.unsubscribe('\ud83d')]) {
    await assert.rejects(call(), { code: 'invalid_topic', reason: /surrogate/ })
  }
  assert.equal((await client.publish('🦆', 1)).topic, '🦆')
  assert.equal(server.frames.length, before + 1)
})

test('any JSON value and any topic arrive unchanged', async (t) => {
  const client = await open(t, await serve(t))
  const topics = ['__proto__', 'constructor', 'length', '1', '☃', 'a.__proto__.b']
  const values = [null, false, 0, -0.5, '', 'naïve ☃ 🦆 "\\\n\u2028', [], {}, [[null]], { __proto__: null, toJSON: 1 }]
  for (const topic of topics) {
    const got = []
    await client.subscribe(topic, ({ message }) => got.push(message))
    for (const value of values) await client.publish(topic, value)
    assert.deepEqual(got, JSON.parse(JSON.stringify(values)), topic)
  }
})

test('calls may be made before the socket is open', async (t) => {
  const server = await serve(t)
  const client = connect(t, server)
  const got = []
  const published = client.publish('a', 'published first')
  const subscribed = client.subscribe('a', ({ message }) => got.push(message))
  assert.equal(client.state, 'connecting')
  assert.deepEqual(client.subscriptions, ['a'])
  await Promise.all([published, subscribed])
  assert.deepEqual(server.frames.map(({ type }) => type), ['subscribe', 'publish'], 'subscriptions go first')
  assert.deepEqual(got, ['published first'])
})

test('message and timestamp are those of the moment of the call', async (t) => {
  const server = await serve(t)
  const client = connect(t, server)
  const message = { n: 1 }
  const before = Date.now()
  const published = client.publish('a', message)
  const after = Date.now()
  message.n = 2
  await published
  const [frame] = server.sent('publish')
  assert.deepEqual(frame.message, { n: 1 })
  assert.ok(Date.parse(frame.timestamp) >= before && Date.parse(frame.timestamp) <= after)
})

test('beyond queueSize a publish is refused, and no waiting one is dropped', async (t) => {
  const server = await serve(t)
  const client = connect(t, server, { queueSize: 2 })
  const waiting = [client.publish('a', 1), client.publish('a', 2)]
  await assert.rejects(client.publish('a', 3), { code: 'queue_full', retryable: true, topic: 'a' })
  const subscribed = client.subscribe('b') // is state, and does not queue
  await Promise.all([...waiting, subscribed])
  assert.deepEqual(server.sent('publish').map(({ message }) => message), [1, 2])
  await Promise.all([3, 4, 5].map((n) => client.publish('a', n)))
})

test('before the socket is open, unsubscribing cancels the subscription', async (t) => {
  const server = await serve(t)
  const client = connect(t, server)
  const emitted = record(client, 'error')
  const subscribed = client.subscribe('a')
  const unsubscribed = client.unsubscribe('a')
  await assert.rejects(subscribed, { code: 'cancelled', action: 'subscribe', topic: 'a' })
  const { type, action, topic } = await unsubscribed
  assert.deepEqual([type, action, topic], ['ack', 'unsubscribe', 'a'])
  await next(client, 'open')
  assert.deepEqual([server.frames, emitted], [[], []])
})

/** Let a call wait for its answer until it times out, while the server speaks of other things. */
async function timeOut(timers, server, client, call) {
  const called = call()
  await speak(server, client)
  timers.tick(10_000)
  await assert.rejects(called, { code: 'timeout', retryable: true })
}

test('a call that a live server never answers times out; a late ack does no harm', async (t) => {
  const server = await serve(t)
  const timers = clock(t)
  server.decide = ({ topic }) => (topic === 'hole' ? 'ignore' : undefined)
  const client = await open(t, server)
  const errors = record(client, 'error')
  await timeOut(timers, server, client, () => client.publish('hole', 1))
  assert.deepEqual(errors.map(({ action, topic }) => [action, topic]), [['publish', 'hole']])
  await until(() => server.frames.length === 1)
  server.broadcast({ type: 'ack', action: 'publish', topic: 'hole', id: server.frames[0].id })
  assert.equal((await client.publish('a', 1)).topic, 'a')
  assert.equal(server.accepted, 1)
})

test('a subscription that timed out is taken back from the server', async (t) => {
  const server = await serve(t)
  const timers = clock(t)
  server.decide = ({ type }) => (type === 'subscribe' ? 'ignore' : undefined)
  const client = await open(t, server)
  await timeOut(timers, server, client, () => client.subscribe('slow'))
  await until(() => server.sent('unsubscribe').length === 1)
  assert.deepEqual(client.subscriptions, [])
})

test('what a subscription that timed out still brings is not for one that is made before the server has taken it back', async (t) => {
  const server = await serve(t)
  const timers = clock(t)
  server.decide = ({ topic }) => topic === 'slow' && 'ignore'
  const client = await open(t, server)
  await timeOut(timers, server, client, () => client.subscribe('slow'))
  const got = []
  const second = client.subscribe('slow', ({ message }) => got.push(message))
  await until(() => server.frames.length === 3)
  const [late, ...others] = server.frames
  const answer = ({ type: action, topic, id }) => server.broadcast({ type: 'ack', action, timestamp: '', topic, id })
  const deliver = (message) => server.broadcast({ type: 'publish', timestamp: '', topic: 'slow', context: 'slow', message })
  answer(late)
  deliver('before a gap')
  others.forEach(answer)
  deliver('after it')
  await second
  await settle(client)
  assert.deepEqual([others.map(({ type }) => type), got], [['unsubscribe', 'subscribe'], ['after it']])
})

test('close() closes for good, and is no error', async (t) => {
  const server = await serve(t)
  server.decide = () => 'ignore'
  const client = await open(t, server)
  const emitted = ['open', 'error', 'reconnecting'].map((event) => record(client, event))
  const closes = record(client, 'close')
  const calls = [client.subscribe('a'), client.publish('a', 1), client.unsubscribe('b')]
  client.close()
  client.close()
  for (const call of calls) await assert.rejects(call, { code: 'closed', retryable: false })
  assert.equal(client.state, 'closed')
  assert.deepEqual(client.subscriptions, [])
  assert.deepEqual(closes, [{ code: 1000, reason: '', willReconnect: false }])
  await until(() => server.sessions.size === 0)
  assert.deepEqual(emitted, [[], [], []])
  await assert.rejects(client.publish('a', 1), { code: 'closed' })
  await assert.rejects(client.subscribe('a'), { code: 'closed' })
  await assert.rejects(client.unsubscribe('a'), { code: 'closed' })
  assert.equal(server.accepted, 1)
})

test('close() before the socket is open closes the socket as well', async (t) => {
  const server = await serve(t)
  const client = connect(t, server)
  const opens = record(client, 'open')
  const call = client.publish('a', 1)
  client.close()
  await assert.rejects(call, { code: 'closed' })
  await open(t, server)
  await until(() => server.sessions.size === 1)
  assert.deepEqual([opens, client.state], [[], 'closed'])
})

test('a process ends when its client is closed', { timeout: 60_000 }, async (t) => {
  const server = await serve(t)
  // A timer that goes on would keep the process for an hour.
  const script = `
    import { WebSocket, PSClient } from './helpers.mjs'
    const client = new PSClient('${server.url}', { WebSocket, timeout: 3_600_000, keepAlive: 3_600_000 })
    await client.publish('a', 1)
    client.close()`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], { cwd: import.meta.dirname })
  t.after(() => child.kill())
  const status = await new Promise((resolve) => child.on('close', resolve))
  assert.equal(status, 0)
})

test('misuse throws at the call', () => {
  assert.throws(() => new PSClient('ws://127.0.0.1:1', { WebSocket: null }), TypeError)
  assert.throws(() => new PSClient('/ws/pubsub/', { WebSocket }), {
    name: 'TypeError',
    message: "'/ws/pubsub/' is no URL of a websocket: without a page to resolve it against, it begins with ws:// or wss://",
  })
  assert.throws(() => new PSClient('ftp://127.0.0.1', { WebSocket }), {
    name: 'TypeError',
    message: "'ftp://127.0.0.1/' does not begin with ws:// or wss://",
  })
  for (const option of ['timeout', 'keepAlive', 'queueSize', 'minDelay', 'maxDelay']) {
    for (const value of [NaN, -1, 'soon']) {
      assert.throws(() => new PSClient('ws://127.0.0.1:1', { WebSocket, [option]: value }), TypeError)
    }
  }
  const client = new PSClient('ws://127.0.0.1:1', { WebSocket, timeout: undefined, minDelay: null })
  assert.throws(() => client.subscribe('a', 'not a function'), TypeError)
  assert.throws(() => client.on('open', undefined), TypeError)
  client.close()
})
