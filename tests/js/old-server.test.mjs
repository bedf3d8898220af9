import assert from 'node:assert/strict'
import { test } from 'node:test'
import { clock, next, open, record, serveOld, speak, until } from './helpers.mjs'

test('against dwsps 1.0.1, acks without ids settle calls in order, by action and topic', async (t) => {
  const server = await serveOld(t)
  const client = await open(t, server)
  const settled = []
  const note = (word) => () => settled.push(word)
  server.held = []
  const calls = [
    client.subscribe('a').then(note('subscribe a')),
    client.publish('a', 1).then(note('publish a 1')),
    client.publish('b', 1).then(note('publish b')),
    client.publish('a', 2).then(note('publish a 2')),
    client.unsubscribe('a').then(note('unsubscribe a')),
  ]
  await until(() => server.held.length === 5)
  const answers = server.held.splice(0)
  server.held = null
  for (const [index, word] of ['subscribe a', 'publish a 1', 'publish b', 'publish a 2', 'unsubscribe a'].entries()) {
    answers[index]()
    await until(() => settled.length === index + 1)
    assert.equal(settled.at(-1), word)
  }
  await Promise.all(calls)
})

test('against dwsps 1.0.1, messages reach their handlers, with the publisher\'s timestamp', async (t) => {
  const server = await serveOld(t)
  const client = await open(t, server)
  const got = []
  await client.subscribe('news', (message) => got.push(message))
  await client.publish('news.uk', { n: 1 })
  const [{ topic, context, message, timestamp }] = got
  assert.deepEqual([topic, context, message], ['news.uk', 'news', { n: 1 }])
  assert.ok(Date.parse(timestamp))
})

test('against dwsps 1.0.1, a late ack does not answer the next call', async (t) => {
  const server = await serveOld(t)
  const timers = clock(t)
  const client = await open(t, server)
  server.held = []
  const first = client.publish('a', 1)
  await speak(server, client)
  timers.tick(10_000)
  await assert.rejects(first, { code: 'timeout' })
  const second = client.publish('a', 2)
  let settled = false
  second.then(() => (settled = true), () => (settled = true))
  await until(() => server.held.length === 2)
  const acks = record(client, 'ack')
  server.held[0]()
  await until(() => acks.some(({ topic }) => topic === 'a'))
  await new Promise(setImmediate)
  assert.equal(settled, false)
  server.held[1]()
  assert.equal((await second).topic, 'a')
})

test('against dwsps 1.0.1, it reconnects and subscribes again', async (t) => {
  const server = await serveOld(t)
  const client = await open(t, server)
  await client.subscribe('a')
  const closed = next(client, 'close')
  await server.kill()
  await closed
  await server.start()
  await next(client, 'open')
  assert.deepEqual(server.topics, ['a'])
})

test('the client sends nothing that crashes dwsps 1.0.1', async (t) => {
  const server = await serveOld(t)
  const client = await open(t, server)
  for (const topic of [undefined, null, '', 7, {}, []]) {
    await assert.rejects(client.subscribe(topic), { code: 'invalid_topic' })
    await assert.rejects(client.unsubscribe(topic), { code: 'invalid_topic' })
    await assert.rejects(client.publish(topic, 1), { code: 'invalid_topic' })
  }
  await client.publish('a', null)
  assert.deepEqual(server.frames.map(({ topic }) => topic), ['a'])
})
