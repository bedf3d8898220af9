import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect, next, open, record, serve, until } from './helpers.mjs'

test('a handle takes back its own handler; the client unsubscribes after the last', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = { one: [], two: [] }
  const one = client.subscribe('a', ({ message }) => got.one.push(message))
  const two = await client.subscribe('a', ({ message }) => got.two.push(message))
  await client.publish('a', 1)
  const { type, action, topic } = await one.unsubscribe()
  assert.deepEqual([type, action, topic, one.topic], ['ack', 'unsubscribe', 'a', 'a'])
  await client.publish('a', 2)
  assert.deepEqual([got, server.sent('unsubscribe'), client.subscriptions], [{ one: [1], two: [1, 2] }, [], ['a']])
  await two.unsubscribe()
  await client.publish('a', 3)
  assert.deepEqual([got, server.topics, client.subscriptions], [{ one: [1], two: [1, 2] }, [], []])
  assert.equal(server.sent('unsubscribe').length, 1)
})

test('a handler that is taken back by another one does not get the message of that moment', async (t) => {
  const client = await open(t, await serve(t))
  const got = []
  const handles = []
  client.subscribe('a', ({ message }) => {
    if (message === 1) handles[0].unsubscribe()
    if (message === 2) client.unsubscribe('a')
  })
  handles.push(client.subscribe('a', ({ message }) => got.push(['one', message])))
  await client.subscribe('a', ({ message }) => got.push(['two', message]))
  for (const message of [0, 1, 2, 3]) await client.publish('a', message)
  assert.deepEqual(got, [['one', 0], ['two', 0], ['two', 1]])
})

test('a handle may be taken back again and again, and after close()', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const errors = record(client, 'error')
  const got = []
  const first = client.subscribe('a', ({ message }) => got.push(message))
  await first
  await first.unsubscribe()
  const second = client.subscribe('a', ({ message }) => got.push(message))
  assert.equal((await first.unsubscribe()).action, 'unsubscribe', 'which is not the second')
  await client.publish('a', 1)
  assert.deepEqual(got, [1])
  await client.unsubscribe('a')
  await second.unsubscribe()
  assert.equal(server.sent('unsubscribe').length, 2)
  client.close()
  await second.unsubscribe()
  const late = client.subscribe('a')
  await assert.rejects(late, { code: 'closed' })
  await late.unsubscribe()
  assert.deepEqual(errors.map(({ action }) => action), ['subscribe'])
})

test('the same function is called once for a message, and until its last handle is gone', async (t) => {
  const client = await open(t, await serve(t))
  const got = []
  const handler = ({ message }) => got.push(message)
  const handles = [client.subscribe('a', handler), client.subscribe('a', handler)]
  await Promise.all(handles)
  await client.publish('a', 1)
  await handles[0].unsubscribe()
  await client.publish('a', 2)
  await handles[1].unsubscribe()
  await client.publish('a', 3)
  assert.deepEqual(got, [1, 2])
})

test('a handle without a handler keeps the topic for "message" listeners', async (t) => {
  const client = await open(t, await serve(t))
  const messages = record(client, 'message')
  const watching = client.subscribe('a')
  const handling = client.subscribe('a', () => {})
  await handling.unsubscribe()
  await client.publish('a', 1)
  await watching.unsubscribe()
  await client.publish('a', 2)
  assert.deepEqual(messages.map(({ message }) => message), [1])
})

test('offline, a handle cancels its own call, and the others are subscribed on the next connection', async (t) => {
  const server = await serve(t)
  const client = connect(t, server)
  const got = []
  const kept = client.subscribe('a', ({ message }) => got.push(message))
  const gone = client.subscribe('a', () => got.push('gone'))
  const alone = client.subscribe('b')
  await gone.unsubscribe()
  await alone.unsubscribe()
  await assert.rejects(gone, { code: 'cancelled', topic: 'a' })
  await assert.rejects(alone, { code: 'cancelled', topic: 'b' })
  await kept
  await client.publish('a', 1)
  assert.deepEqual([got, server.topics], [[1], ['a']])
})

test('a topic whose last call is refused is not asked for again, even if it was granted before', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const before = client.subscribe('a', () => {})
  await before
  server.decide = ({ type, topic }) => {
    if (type === 'subscribe' && topic === 'a') return { code: 'unavailable', reason: 'later', retryable: true }
  }
  const closed = next(client, 'close')
  const opened = next(client, 'open')
  server.drop()
  await closed
  const after = client.subscribe('a', () => {})
  await before.unsubscribe()
  await assert.rejects(after, { code: 'unavailable' })
  await opened
  assert.deepEqual(client.subscriptions, [])
})

test('handles outlive a connection', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = []
  const one = client.subscribe('a', () => got.push('one'))
  await client.subscribe('a', () => got.push('two'))
  const opened = next(client, 'open')
  server.drop()
  await opened
  await one.unsubscribe()
  await client.publish('a', 1)
  assert.deepEqual([got, server.topics], [['two'], ['a']])
})

test('a subscription taken back before its answer delivers nothing, and the server drops it', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = []
  const handle = client.subscribe('a', () => got.push(1))
  const [ack] = await Promise.all([handle, handle.unsubscribe(), client.publish('a', 1)])
  assert.equal(ack.action, 'subscribe')
  await until(() => server.topics.length === 0)
  assert.deepEqual(got, [])
})
