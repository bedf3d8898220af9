/** Tests against the real server at DWSPS_URL, a websocket address at which everybody may do everything. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { connect, next, open, PSError, record, until } from './helpers.mjs'

const url = process.env.DWSPS_URL
const real = (name, run) => test(name, { skip: url ? false : 'DWSPS_URL is not set', timeout: 30_000 }, run)

/** Make a topic for this run alone: the server may have other users. */
const topic = (name) => `e2e.${randomUUID()}.${name}`

real('the example of the README of dwsps', async (t) => {
  const news = topic('news')
  const client = connect(t, url)
  const acks = record(client, 'ack')
  const handled = []
  client.on('open', () => {
    client.subscribe(news, (message) => handled.push(message))
    client.publish(news, 'Hello news channel!')
    client.publish(`${news}.uk`, 'Hello news.uk channel!')
  })
  await until(() => acks.length === 3)
  assert.deepEqual(acks.map(({ action }) => action), ['subscribe', 'publish', 'publish'])
  assert.deepEqual(handled.map(({ type, topic, context, message }) => [type, topic, context, message]), [
    ['publish', news, news, 'Hello news channel!'],
    ['publish', `${news}.uk`, news, 'Hello news.uk channel!'],
  ])
})

real('acks settle the calls, with topic, action and a timestamp', async (t) => {
  const a = topic('a')
  const client = await open(t, url)
  const acks = await Promise.all([client.subscribe(a), client.publish(a, null), client.unsubscribe(a)])
  assert.deepEqual(acks.map(({ type, action, topic }) => [type, action, topic]), [
    ['ack', 'subscribe', a],
    ['ack', 'publish', a],
    ['ack', 'unsubscribe', a],
  ])
  for (const { timestamp } of acks) assert.match(timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
})

real('one client publishes, the other receives, once for each subscription and deepest first', async (t) => {
  const [sender, receiver] = await Promise.all([open(t, url), open(t, url)])
  const parent = topic('parent')
  const child = `${parent}.child`
  const got = []
  await receiver.subscribe(parent, ({ context, message }) => got.push([context, message]))
  await receiver.subscribe(child, ({ context, message }) => got.push([context, message]))
  await sender.publish(child, 1)
  await sender.publish(`${parent}hood`, 'not a sub-topic')
  await sender.publish(parent, 2)
  await until(() => got.length === 3)
  assert.deepEqual(got, [[child, 1], [parent, 1], [parent, 2]])
})

real('any JSON value arrives unchanged', async (t) => {
  const any = topic('any')
  const client = await open(t, url)
  const got = []
  const values = [null, false, 0, -0.5, 1e300, '', 'naïve ☃ 🦆 "\\\n', [], {}, { a: [{ b: null }] }]
  await client.subscribe(any, ({ message }) => got.push(message))
  for (const value of values) await client.publish(any, value)
  assert.deepEqual(got, values)
})

real('half of an emoji arrives in a message, and no topic may have one', async (t) => {
  const half = topic('half')
  const client = await open(t, url)
  const got = []
  const values = ['\ud83d', 'x\udc00y', ['\ud83d\ude00', '\ude00\ud83d'], { '\ud83d': '\ud83d' }]
  await client.subscribe(half, ({ message }) => got.push(message))
  for (const value of values) await client.publish(half, value)
  assert.deepEqual(got, values)
  for (const call of [client.publish(`${half}\ud83d`, 1), client.subscribe(`${half}\ud83d`)]) {
    await assert.rejects(call, { code: 'invalid_topic', retryable: false })
  }
})

real('a message beyond a limit is refused, and no other call with it', async (t) => {
  const own = topic('own')
  const client = await open(t, url)
  const deep = Array(200).fill().reduce((inner) => [inner], null)
  const calls = [client.publish(own, 1), client.publish(own, 'x'.repeat(70_000)), client.publish(own, deep), client.publish(own, 2)]
  const results = await Promise.allSettled(calls)
  assert.deepEqual(results.map(({ reason }) => reason?.code), [undefined, 'message_too_large', 'message_too_deep', undefined])
})

real('the topics __proto__, length, 1 and ☃ are ordinary', async (t) => {
  const client = await open(t, url)
  for (const name of ['__proto__', 'length', '1', '☃']) {
    const got = []
    const own = `${name}.${randomUUID()}`
    await client.subscribe(own, ({ topic }) => got.push(topic))
    await client.publish(own, 1)
    assert.deepEqual(got, [own])
  }
})

real('a refused call rejects, and the connection lives on', async (t) => {
  const client = await open(t, url)
  const emitted = record(client, 'error')
  for (const bad of ['a..b', '.a', 'a.', 'a b', 'a\u0007', 'x'.repeat(256), 'x.'.repeat(32) + 'x']) {
    for (const call of [() => client.subscribe(bad), () => client.publish(bad, 1)]) {
      const error = await call().then(() => assert.fail(`accepted: ${bad}`), (error) => error)
      assert.ok(error instanceof PSError, String(error))
      assert.deepEqual([error.code, error.retryable], ['invalid_topic', false], bad)
    }
  }
  assert.equal(emitted.length, 14)
  assert.deepEqual(client.subscriptions, [])
  assert.equal((await client.publish(topic('fine'), 1)).type, 'ack')
})

real('after unsubscribe only the remaining subscriptions deliver', async (t) => {
  const client = await open(t, url)
  const parent = topic('parent')
  const child = `${parent}.child`
  const contexts = []
  client.on('message', ({ context }) => contexts.push(context))
  await Promise.all([client.subscribe(parent), client.subscribe(child)])
  await client.unsubscribe(parent)
  await client.publish(child, 1)
  await client.publish(parent, 2)
  assert.deepEqual(contexts, [child])
  await client.unsubscribe(child)
  await client.unsubscribe(child) // from what one is not subscribed to: acknowledged
  await client.publish(child, 3)
  assert.deepEqual(contexts, [child])
})

real('a thousand publishes in one go all arrive, in order', async (t) => {
  const many = topic('many')
  const client = await open(t, url)
  const got = []
  await client.subscribe(many, ({ message }) => got.push(message))
  const numbers = Array.from({ length: 1000 }, (_, n) => n)
  await Promise.all(numbers.map((n) => client.publish(many, n)))
  assert.deepEqual(got, numbers)
})

real('close() closes', async (t) => {
  const client = await open(t, url)
  const closed = next(client, 'close')
  client.close()
  assert.deepEqual(await closed, { code: 1000, reason: '', willReconnect: false })
})
