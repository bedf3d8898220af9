import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect, next, record, serve, until } from './helpers.mjs'

test('a function is called for the address of each connection', async (t) => {
  const server = await serve(t)
  const paths = []
  server.welcome = (socket, request) => paths.push(request.url)
  let asked = 0
  for (const locate of [() => `${server.url}/?n=${++asked}`, async () => new URL(`${server.url}/?n=${++asked}`)]) {
    const client = connect(t, locate)
    assert.equal(client.url, '')
    const subscribed = client.subscribe('a')
    await next(client, 'open')
    await subscribed
    server.drop()
    await next(client, 'open')
    assert.equal(client.url, `${server.url}/?n=${asked}`)
    client.close()
  }
  assert.deepEqual(paths, ['/?n=1', '/?n=2', '/?n=3', '/?n=4'])
})

test('if the function fails, the client tries again and gives the reason', async (t) => {
  const server = await serve(t)
  const answers = [
    () => {
      throw new Error('no token today')
    },
    () => Promise.reject(new Error('nor tomorrow')),
    () => '/ws/pubsub/',
    () => undefined,
    () => server.url,
  ]
  const client = connect(t, () => answers.shift()())
  const reconnecting = record(client, 'reconnecting')
  await next(client, 'open')
  assert.deepEqual(reconnecting.map(({ code, attempt }) => [code, attempt]), [1, 2, 3, 4].map((n) => [1006, n]))
  const reasons = [/: no token today$/, /: nor tomorrow$/, /'\/ws\/pubsub\/' is no URL/, /'undefined' is no URL/]
  reasons.forEach((reason, n) => assert.match(reconnecting[n].reason, reason))
})

test('a function that takes too long is called again; its late answer is not used, nor after close()', async (t) => {
  const server = await serve(t)
  const waiting = []
  const client = connect(t, () => new Promise((resolve) => waiting.push(resolve)), { timeout: 30 })
  const { reason } = await next(client, 'reconnecting')
  assert.match(reason, /the function gave no URL in time/)
  await until(() => waiting.length >= 2)
  const patient = connect(t, () => new Promise((resolve) => waiting.push(resolve)))
  const before = waiting.length
  await until(() => waiting.length > before - 1)
  patient.close()
  client.close()
  waiting.forEach((answer) => answer(server.url))
  const last = connect(t, () => server.url)
  await last.publish('a', 1)
  assert.equal(server.accepted, 1)
})
