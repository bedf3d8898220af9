/** The option `dwsps1`, for programs that were written for the client of dwsps 1.0.1. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect, next, open, record, serve, settle, until } from './helpers.mjs'

test('handlers and listeners get the text of the frame', async (t) => {
  const server = await serve(t)
  const client = connect(t, server, { dwsps1: true })
  const [acks, messages, handled] = [record(client, 'ack'), record(client, 'message'), []]
  client.on('open', () => {
    client.subscribe('news', (message) => handled.push(message))
    client.publish('news.uk', 'Hello news.uk channel!')
  })
  await until(() => acks.length === 2)
  assert.deepEqual([...acks, ...messages, ...handled].map((text) => typeof text), Array(4).fill('string'))
  assert.deepEqual(acks.map((text) => JSON.parse(text).action), ['subscribe', 'publish'])
  const { type, topic, context, message } = JSON.parse(handled[0])
  assert.deepEqual([type, topic, context, message], ['publish', 'news.uk', 'news', 'Hello news.uk channel!'])
  assert.deepEqual(messages, handled)
})

test('a binary frame is text as well', async (t) => {
  const server = await serve(t)
  const client = await open(t, server, { dwsps1: true })
  const messages = record(client, 'message')
  for (const socket of server.sessions.keys()) socket.send(Buffer.from('{"type":"publish","topic":"a","message":"☃"}'))
  await settle(client)
  assert.deepEqual(messages, ['{"type":"publish","topic":"a","message":"☃"}'])
})

test('a subscription that an "open" listener makes again is not delivered twice', async (t) => {
  const server = await serve(t)
  const client = connect(t, server, { dwsps1: true })
  const got = []
  const kept = (text) => got.push(['kept', text])
  client.subscribe('a', (text) => got.push(['outside', text]))
  client.once('open', () => client.subscribe('a', (text) => got.push(['once', text])))
  client.on('open', () => {
    client.subscribe('a', (text) => got.push(['inline', text]))
    client.subscribe('a', kept)
  })
  for (let round = 0; round < 3; round++) {
    await until(() => client.state === 'open')
    await client.subscribe('a')
    got.length = 0
    await client.publish('a', round)
    assert.deepEqual(got.map(([who]) => who).sort(), ['inline', 'kept', 'once', 'outside'], `round ${round}`)
    const closed = next(client, 'close')
    server.drop()
    await closed
  }
})

test('without the option, a listener that runs again adds to what it attached before', async (t) => {
  const server = await serve(t)
  const client = connect(t, server)
  const got = []
  client.on('open', () => client.subscribe('a', ({ message }) => got.push(message)))
  await next(client, 'open')
  server.drop()
  await next(client, 'open')
  await client.publish('a', 1)
  assert.deepEqual(got, [1, 1])
})
