import assert from 'node:assert/strict'
import { test } from 'node:test'
import { next, open, record, serve, settle, until } from './helpers.mjs'

test('a handler gets the messages that its subscription matched, including those to sub-topics', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = { news: [], uk: [], london: [] }
  await client.subscribe('news', ({ topic, context }) => got.news.push([topic, context]))
  await client.subscribe('news.uk', ({ topic, context }) => got.uk.push([topic, context]))
  await client.subscribe('news.uk.london', ({ topic, context }) => got.london.push([topic, context]))
  const messages = record(client, 'message')
  await client.publish('news.uk', 1)
  await client.publish('news', 2)
  await client.publish('newsroom', 3)
  assert.deepEqual(got, { news: [['news.uk', 'news'], ['news', 'news']], uk: [['news.uk', 'news.uk']], london: [] })
  assert.deepEqual(messages.map(({ context }) => context), ['news.uk', 'news', 'news'])
})

test('a message without a context is for the subscription to its topic', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = []
  await client.subscribe('news', ({ message }) => got.push(message))
  server.broadcast({ type: 'publish', topic: 'news', message: 1 })
  await settle(client)
  assert.deepEqual(got, [1])
})

test('a topic may have several handlers; the same function is one; unsubscribe drops them all', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = []
  const first = () => got.push('first')
  const second = () => got.push('second')
  for (const handler of [first, second, first]) await client.subscribe('a', handler)
  await client.publish('a', 1)
  assert.deepEqual(got, ['first', 'second'])
  await client.unsubscribe('a')
  await client.publish('a', 2)
  await client.subscribe('a')
  await client.publish('a', 3)
  assert.deepEqual(got, ['first', 'second'])
})

test('unsubscribing from a parent leaves the child, and takes effect at once for the handlers', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const parent = []
  const child = []
  await client.subscribe('a', ({ message }) => parent.push(message))
  await client.subscribe('a.b', ({ message }) => child.push(message))
  const late = client.publish('a.b', 'on its way')
  await Promise.all([client.unsubscribe('a'), late])
  await client.publish('a.b', 'later')
  assert.deepEqual([parent, child], [[], ['on its way', 'later']])
  assert.deepEqual([client.subscriptions, server.topics], [['a.b'], ['a.b']])
})

test('unsubscribing without a subscription is acknowledged', async (t) => {
  const client = await open(t, await serve(t))
  assert.equal((await client.unsubscribe('a')).action, 'unsubscribe')
})

test('a handler or listener that fails stops neither the others nor the client, and is reported', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const reported = t.mock.method(console, 'error', () => {})
  const got = []
  const boom = (word) => () => {
    throw new Error(word)
  }
  client.on('message', boom('listener'))
  client.on('message', async () => boom('async listener')())
  client.on('message', () => got.push('listener'))
  client.on('ack', boom('ack'))
  client.on('error', boom('error'))
  client.on('close', boom('close'))
  await client.subscribe('a', boom('handler'))
  await client.subscribe('a', async () => boom('async handler')())
  await client.subscribe('a', () => got.push('handler'))
  await client.publish('a', 1)
  await assert.rejects(client.publish('a..b', 1), { code: 'invalid_topic' })
  assert.deepEqual(got, ['listener', 'handler'])
  const reopened = next(client, 'open')
  server.drop()
  await reopened
  const words = new Set(reported.mock.calls.map(({ arguments: [error] }) => error.message))
  assert.deepEqual([...words].sort(), [
    'ack', 'async handler', 'async listener', 'close', 'error', 'handler', 'listener',
  ])
})

test('if there is a reportError, as in browsers, it gets the failure', async (t) => {
  const client = await open(t, await serve(t))
  const reported = []
  globalThis.reportError = (error) => reported.push(error.message)
  t.after(() => delete globalThis.reportError)
  await client.subscribe('a', () => {
    throw new Error('handler')
  })
  await client.publish('a', 1)
  assert.deepEqual(reported, ['handler'])
})

test('invalid frames go to "error" listeners, and the connection lives on', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const errors = record(client, 'error')
  const messages = record(client, 'message')
  const broken = [
    '', '{', 'null', '7', '[]', '{}', '{"type":7}', '{"type":"publish"}', '{"type":"publish","topic":7}',
    '{"type":"ack"}', '{"type":"error"}', Buffer.from([0xff, 0xfe]),
  ]
  for (const frame of broken) for (const socket of server.sessions.keys()) socket.send(frame)
  await settle(client)
  assert.deepEqual(errors.map(({ code }) => code), broken.map(() => 'invalid_frame'))
  assert.deepEqual(messages, [])
})

test('frames of a later protocol are ignored', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const emitted = ['error', 'message', 'ack'].map((event) => record(client, event))
  server.broadcast({ type: 'hello', server: 'x' })
  server.broadcast({ type: 'publish', topic: 'a', context: 'a', message: 1, news: true })
  await until(() => emitted[1].length === 1)
  assert.deepEqual([emitted[0], emitted[2]], [[], []])
})

test('JSON in a binary message is a frame too', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const emitted = next(client, 'message')
  const frame = Buffer.from('{"type":"publish","topic":"a","context":"a","message":"☃"}')
  for (const socket of server.sessions.keys()) socket.send(frame)
  assert.equal((await emitted).message, '☃')
})

test('an error that answers no call goes to "error" listeners', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const emitted = next(client, 'error')
  server.broadcast({ type: 'error', code: 'unavailable', reason: 'the server is going away', retryable: true })
  const { code, reason, retryable, action, topic } = await emitted
  assert.deepEqual([code, reason, retryable], ['unavailable', 'the server is going away', true])
  assert.deepEqual([action, topic], [undefined, undefined])
})

test('listeners are called in order, once() once, and off() takes them away, even while they run', async (t) => {
  const client = await open(t, await serve(t))
  const got = []
  const second = () => got.push('second')
  const first = () => {
    got.push('first')
    client.off('ack', second)
  }
  const chained = client.on('ack', first).on('ack', second).once('ack', () => got.push('once'))
  assert.equal(chained, client)
  await client.publish('a', 1)
  await client.publish('a', 2)
  assert.deepEqual(got, ['first', 'second', 'once', 'first'])
  client.off('ack', first).off('nothing', first)
  await client.publish('a', 3)
  assert.equal(got.length, 4)
})

test('a handler may close the client, or unsubscribe, in the middle of a delivery', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = []
  await client.subscribe('a', () => got.push('handler'))
  client.on('message', () => client.close())
  await assert.rejects(client.publish('a', 1), { code: 'closed' })
  assert.deepEqual(got, [])
})
