import assert from 'node:assert/strict'
import { test } from 'node:test'
import { next, open, PSClient, record, serve, until, WebSocket } from './helpers.mjs'

/** The parts of a page that the client uses. */
function page(t, { href } = {}) {
  const window = new EventTarget()
  const document = Object.assign(new EventTarget(), { visibilityState: 'visible' })
  const globals = {
    location: href && { href },
    document,
    addEventListener: window.addEventListener.bind(window),
    removeEventListener: window.removeEventListener.bind(window),
  }
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, configurable: true })
    t.after(() => delete globalThis[name])
  }
  return { window, document }
}

test('relative and http addresses become websocket addresses', (t) => {
  page(t, { href: 'https://example.org/shop/cart?x=1#top' })
  class Idle {
    close() {}
  }
  const resolved = (url) => {
    const client = new PSClient(url, { WebSocket: Idle })
    t.after(() => client.close())
    return client.url
  }
  assert.equal(resolved('/ws/pubsub/'), 'wss://example.org/ws/pubsub/')
  assert.equal(resolved('live?token=1'), 'wss://example.org/shop/live?token=1')
  assert.equal(resolved('//other.example/ws'), 'wss://other.example/ws')
  assert.equal(resolved('http://localhost:8000'), 'ws://localhost:8000/')
  assert.equal(resolved('ws://localhost:8000/#x'), 'ws://localhost:8000/')
  assert.equal(resolved(new URL('wss://a.example/b')), 'wss://a.example/b')
  for (const missing of [undefined, null]) {
    assert.throws(() => resolved(missing), { name: 'TypeError', message: `'${missing}' is no URL of a websocket` })
  }
})

test('without the option WebSocket it takes the global class', async (t) => {
  const server = await serve(t)
  const before = Object.getOwnPropertyDescriptor(globalThis, 'WebSocket')
  Object.defineProperty(globalThis, 'WebSocket', { value: WebSocket, configurable: true })
  t.after(() => (before ? Object.defineProperty(globalThis, 'WebSocket', before) : delete globalThis.WebSocket))
  const client = new PSClient(server.url)
  t.after(() => client.close())
  await next(client, 'open')
})

for (const [what, wake] of [
  ['the network is back', ({ window }) => window.dispatchEvent(new Event('online'))],
  ['the page is visible again', ({ document }) => document.dispatchEvent(new Event('visibilitychange'))],
]) {
  test(`when ${what}, it does not wait any longer`, async (t) => {
    const env = page(t)
    const server = await serve(t)
    let sockets = 0
    class Counted extends WebSocket {
      constructor(url) {
        super(url)
        sockets++
      }
    }
    const client = await open(t, server, { WebSocket: Counted, minDelay: 3_600_000, maxDelay: 3_600_000 })
    t.mock.method(Math, 'random', () => 1)
    const waits = next(client, 'reconnecting')
    server.drop()
    assert.equal((await waits).delay, 3_600_000)
    env.document.visibilityState = 'hidden'
    env.document.dispatchEvent(new Event('visibilitychange'))
    assert.equal(sockets, 1)
    env.document.visibilityState = 'visible'
    wake(env)
    wake(env) // one socket, not two
    await until(() => client.state === 'open')
    wake(env)
    await client.publish('a', 1)
    assert.equal(sockets, 2)
  })
}

test('a closed client removes its listeners from the page', async (t) => {
  const env = page(t)
  const server = await serve(t)
  const client = await open(t, server)
  const removed = [t.mock.method(globalThis, 'removeEventListener'), t.mock.method(env.document, 'removeEventListener')]
  const reconnecting = record(client, 'reconnecting')
  client.close()
  env.window.dispatchEvent(new Event('online'))
  env.document.dispatchEvent(new Event('visibilitychange'))
  await (await open(t, server)).publish('a', 1)
  assert.deepEqual(removed.map(({ mock }) => mock.calls.length), [1, 1])
  assert.deepEqual([reconnecting, server.accepted], [[], 2])
})
