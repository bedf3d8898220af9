/** Tokens, grants and ended subscriptions: what ../conformance/access.json does not say for all clients. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { clock, connect, next, open, PSClient, record, serve, settle, until, WebSocket } from './helpers.mjs'
import { LogServer } from './servers.mjs'

const FORBIDDEN = { code: 'forbidden', reason: 'not yours', retryable: false }
const UNSUBSCRIBED = { type: 'unsubscribed', timestamp: '', topic: 'news', ...FORBIDDEN }
const types = (server) => server.frames.map(({ type }) => type)

test('nothing is sent before the token is acknowledged, whatever the application does meanwhile', async (t) => {
  const server = await serve(t)
  server.decide = ({ type }) => type === 'authenticate' && 'ignore'
  const client = connect(t, server, { token: 't1' })
  const subscribed = client.subscribe('news')
  await until(() => server.frames.length)
  const published = client.publish('news', 1)
  const gone = client.subscribe('gone')
  assert.equal((await client.unsubscribe('gone')).id, undefined, 'an ack of the client itself')
  await assert.rejects(gone, { code: 'cancelled' })
  // A second connection shows that what was in flight to the server has arrived.
  await settle(await open(t, server))
  assert.deepEqual([types(server), client.state], [['authenticate', 'publish'], 'connecting'])
  const [socket] = server.sessions.keys()
  server.send(socket, { type: 'ack', action: 'authenticate', timestamp: '', id: server.frames[0].id })
  await Promise.all([subscribed, published])
  assert.deepEqual(types(server).slice(2), ['subscribe', 'publish'])
})

test('a token that the server cannot check now is sent again, and everything waits for it', async (t) => {
  const server = await serve(t)
  let refusals = 2
  server.decide = ({ type }) => {
    if (type === 'authenticate' && refusals-- > 0) return { code: 'unavailable', reason: 'later', retryable: true }
  }
  const client = connect(t, server, { token: 't1' })
  const errors = record(client, 'error')
  await client.publish('news', 1)
  assert.deepEqual(types(server), ['authenticate', 'authenticate', 'authenticate', 'publish'])
  assert.deepEqual(errors.map(({ code, action }) => [code, action]), Array(2).fill(['unavailable', 'authenticate']))
  assert.equal(server.accepted, 1)
})

test('a refused token is an error, and closes the client with the reason', async (t) => {
  const server = await serve(t)
  server.decide = ({ type }) => type === 'authenticate' && { code: 'unauthorized', reason: 'it has expired' }
  const client = connect(t, server, { token: 't1' })
  const errors = record(client, 'error')
  const published = client.publish('news', 1)
  assert.deepEqual(await next(client, 'close'), { code: 4001, reason: 'it has expired', willReconnect: false })
  assert.deepEqual(errors.map(({ code, reason }) => [code, reason]), [
    ['unauthorized', 'it has expired'],
    ['closed', 'the server closed the connection for good: 4001 it has expired'],
  ])
  await assert.rejects(published, { code: 'closed' })
  assert.deepEqual([client.state, types(server)], ['closed', ['authenticate']])
  await until(() => !server.sessions.size)
})

test('a listener may close the client when it hears of a refused token', async (t) => {
  const server = await serve(t)
  server.decide = ({ type }) => type === 'authenticate' && { code: 'unauthorized', reason: 'no' }
  const client = connect(t, server, { token: async () => 't1' })
  const closes = record(client, 'close')
  client.once('error', () => client.close())
  await next(client, 'close')
  await until(() => !server.sessions.size)
  assert.deepEqual([closes.length, server.accepted, client.state], [1, 1, 'closed'])
})

for (const [what, token, reason] of [
  ['throws', () => { throw new Error('logged out') }, 'no connection: logged out'],
  ['rejects', () => Promise.reject('logged out'), 'no connection: logged out'],
  ['returns something else', () => 7, 'no connection: a token is a string'],
  ['never answers', () => new Promise(() => {}), 'the function gave no token in time'],
]) {
  test(`a token function that ${what} is a failed attempt to connect`, async (t) => {
    const server = await serve(t)
    const client = connect(t, server, { token, timeout: 20 })
    assert.deepEqual((await next(client, 'reconnecting')).reason, reason)
    assert.equal((await next(client, 'reconnecting')).attempt, 2)
    assert.equal(server.accepted, 0)
  })
}

test('an error tells of a token function that fails while the token expires', async (t) => {
  const server = await serve(t)
  const tokens = ['t1', null, 't2']
  const token = () => tokens.shift() ?? Promise.reject(new Error('no network'))
  const client = await open(t, server, { token })
  const failed = next(client, 'error')
  server.broadcast({ type: 'expiring', timestamp: '', expiresIn: 0 })
  const { code, reason, retryable, action } = await failed
  assert.deepEqual([code, reason, retryable, action], ['no_token', 'no network', true, 'authenticate'])
  await until(() => server.sent('authenticate').length === 2)
  assert.deepEqual(server.sent('authenticate').map(({ token }) => token), ['t1', 't2'])
})

test('a token is renewed after half of its life at the earliest', async (t) => {
  const server = await serve(t)
  const time = clock(t)
  let tokens = 0
  const client = await open(t, server, { token: () => `t${++tokens}` })
  server.broadcast({ type: 'expiring', timestamp: '', expiresIn: 40 })
  await settle(client)
  time.tick(19_999)
  assert.equal(tokens, 1)
  time.tick(1)
  await until(() => server.sent('authenticate').length === 2)
  await settle(client)
  time.tick(3_540_000)
  server.broadcast({ type: 'expiring', timestamp: '', expiresIn: 60 })
  await settle(client)
  time.tick(0)
  await until(() => server.sent('authenticate').length === 3)
})

test('a token that cannot be renewed is not sent again, and neither is one of a lost or closed connection', async (t) => {
  const server = await serve(t)
  const time = clock(t)
  const sent = () => server.sent('authenticate').length
  const expire = async (client) => {
    server.broadcast({ type: 'expiring', timestamp: '', expiresIn: 2 })
    await settle(client)
  }
  const fixed = await open(t, server, { token: 't1' })
  await expire(fixed)
  time.tick(2000)
  await settle(fixed)
  assert.equal(sent(), 1)
  fixed.close()

  let calls = 0
  const client = await open(t, server, { token: () => `t${++calls}` })
  await expire(client)
  const lost = next(client, 'reconnecting')
  server.drop()
  const opened = next(client, 'open')
  time.tick((await lost).delay)
  await opened
  time.tick(2000)
  await settle(client)
  assert.deepEqual([calls, sent()], [2, 3])

  await expire(client)
  client.close()
  time.tick(2000)
  assert.equal(calls, 2)
})

test('after 4001 a client waits a moment of its own for another token, and the close has the reason that the error gave', async (t) => {
  const server = await serve(t)
  const client = await open(t, server, { token: async () => 't', minDelay: 3_600_000, maxDelay: 3_600_000 })
  const waiting = client.publish('ignored', 1)
  const heard = ['close', 'reconnecting'].map((event) => next(client, event))
  server.broadcast({ type: 'error', code: 'unauthorized', reason: 'the user is not active', retryable: false })
  server.close(4001)
  const [close, reconnecting] = await Promise.all(heard)
  assert.deepEqual(close, { code: 4001, reason: 'the user is not active', willReconnect: true })
  assert.deepEqual([reconnecting.attempt, reconnecting.code], [1, 4001])
  assert.ok(reconnecting.delay > 0, 'many clients may be closed at one moment')
  await waiting.catch(() => {})
})

test('a token that comes after close() opens no connection', async (t) => {
  const server = await serve(t)
  let give
  const client = connect(t, server, { token: () => new Promise((resolve) => (give = resolve)) })
  await until(() => give)
  client.close()
  give('t1')
  await settle(await open(t, server))
  assert.equal(server.accepted, 1)
})

test('a token that comes after its connection was lost is not sent', async (t) => {
  const server = await serve(t)
  const answers = []
  let calls = 0
  const token = () => (++calls === 2 ? new Promise((resolve) => answers.push(resolve)) : `t${calls}`)
  const client = await open(t, server, { token })
  server.broadcast({ type: 'expiring', timestamp: '', expiresIn: 0 })
  await until(() => answers.length)
  const opened = next(client, 'open')
  server.drop()
  await opened
  answers[0]('t2')
  await settle(client)
  assert.deepEqual(server.sent('authenticate').map(({ token }) => token), ['t1', 't3'])
})

test('an ended subscription tells its calls once each, then listeners, and forgets them', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const heard = []
  const onUnsubscribed = (end) => heard.push(['call', end])
  client.on('unsubscribed', (end) => heard.push(['client', end, client.subscriptions]))
  const handle = client.subscribe('news', () => heard.push('message'), { onUnsubscribed })
  await Promise.all([handle, client.subscribe('news', null, { onUnsubscribed }), client.subscribe('sport')])
  const end = { topic: 'news', code: 'forbidden', reason: 'you left the group' }
  const told = next(client, 'unsubscribed')
  server.broadcast({ type: 'unsubscribed', timestamp: '', ...end })
  await told
  assert.deepEqual(heard, [['call', end], ['client', end, ['sport']]])
  assert.equal((await handle.unsubscribe()).id, undefined, 'there is nothing to take back')
  assert.deepEqual(server.sent('unsubscribe'), [])
})

test('a subscription that a later connection refuses tells its end as well', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const ends = []
  await client.subscribe('news', null, { onUnsubscribed: (end) => ends.push(end) })
  server.decide = ({ type, topic }) => type === 'subscribe' && topic === 'news' && FORBIDDEN
  const told = next(client, 'unsubscribed')
  server.drop()
  const end = { topic: 'news', code: 'forbidden', reason: 'not yours' }
  assert.deepEqual([await told, ends], [end, [end]])
})

test('a subscription that was never granted tells no end: its promise rejects', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const ends = record(client, 'unsubscribed')
  server.decide = ({ type }) => type === 'subscribe' && FORBIDDEN
  await assert.rejects(client.subscribe('news', null, { onUnsubscribed: (end) => ends.push(end) }), FORBIDDEN)
  await settle(client)
  assert.deepEqual(ends, [])
})

test('a connection is open although the server has ended a subscription before it answered', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  await client.subscribe('news')
  server.decide = ({ type, topic }, socket) => {
    if (type !== 'subscribe' || topic !== 'news') return
    server.send(socket, UNSUBSCRIBED)
    return 'ignore'
  }
  const opened = next(client, 'open')
  server.drop()
  await opened
  assert.deepEqual(client.subscriptions, [])
})

test('an end that is no frame of the protocol ends nothing', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const errors = record(client, 'error')
  await client.subscribe('news')
  for (const bad of [{ topic: 7 }, { code: null }, { reason: {} }]) server.broadcast({ ...UNSUBSCRIBED, ...bad })
  server.broadcast({ ...UNSUBSCRIBED, topic: 'other' })
  await settle(client)
  assert.deepEqual([client.subscriptions, errors.map(({ code }) => code)], [['news'], Array(3).fill('invalid_frame')])
})

test('a handler may subscribe again when it hears of the end', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const got = []
  const again = () => client.subscribe('news', ({ message }) => got.push(message))
  await client.subscribe('news', null, { onUnsubscribed: again })
  server.broadcast(UNSUBSCRIBED)
  await until(() => server.sent('subscribe').length === 2)
  await client.publish('news', 1)
  assert.deepEqual([got, client.subscriptions], [[1], ['news']])
})

test('a grant function that fails rejects a first subscribe, and puts off a later one', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const errors = record(client, 'error')
  await assert.rejects(client.subscribe('news', null, { grant: () => Promise.reject(new Error('403')) }), {
    code: 'no_grant',
    reason: '403',
    retryable: true,
    topic: 'news',
  })
  assert.deepEqual([client.subscriptions, server.frames, errors.length], [[], [], 1])
  const grants = ['g1', null, 'g2']
  await client.subscribe('news', null, { grant: () => grants.shift() ?? Promise.reject(new Error('403')) })
  const opened = next(client, 'open')
  server.drop()
  await opened
  assert.deepEqual(server.frames.map(({ type, grant }) => [type, grant]), [['subscribe', 'g1'], ['subscribe', 'g2']])
  assert.deepEqual(errors.map(({ code }) => code), ['no_grant', 'no_grant'])
})

test('a grant function may return nothing, and the policy decides', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  await client.subscribe('news', null, { grant: () => null })
  assert.equal('grant' in server.frames[0], false)
})

test('a call with its own grant does not wait for one that fails after the server has ended its subscription', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  let fail
  let calls = 0
  const late = () => (++calls === 1 ? 'g1' : new Promise((_, reject) => (fail = reject)))
  await client.subscribe('news', null, { grant: late })
  const lost = next(client, 'reconnecting')
  server.drop()
  await lost
  const second = client.subscribe('news', null, { grant: async () => 'g2' })
  await until(() => fail)
  const ended = next(client, 'unsubscribed')
  server.broadcast(UNSUBSCRIBED)
  await ended
  fail(new Error('403'))
  await second
  assert.deepEqual(server.sent('subscribe').map(({ grant }) => grant), ['g1', 'g2'])
})

test('calls that come while a grant function runs share its grant', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  let calls = 0
  const grant = async () => `g${++calls}`
  await Promise.all(['a', 'b', 'c'].map((name) => client.subscribe('news', () => name, { grant })))
  assert.deepEqual([calls, server.frames.map(({ type, grant }) => [type, grant])], [1, [['subscribe', 'g1']]])
})

test('the grant of a call that was taken back or refused is not used any more', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  await client.subscribe('news', () => 1, { grant: 'g1' })
  const second = client.subscribe('news', () => 2, { grant: 'g2' })
  await second
  server.decide = ({ grant }) => grant === 'bad' && FORBIDDEN
  await assert.rejects(client.subscribe('news', () => 3, { grant: 'bad' }), FORBIDDEN)
  await second.unsubscribe()
  const opened = next(client, 'open')
  server.drop()
  await opened
  assert.deepEqual(server.sent('subscribe').map(({ grant }) => grant), ['g1', 'g2', 'bad', 'g1'])
})

test('a grant that comes after its subscription or its connection is gone is not sent', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const answers = []
  const grant = () => new Promise((resolve) => answers.push(resolve))
  const gone = client.subscribe('gone', null, { grant })
  client.subscribe('news', null, { grant })
  await gone.unsubscribe()
  const opened = next(client, 'open')
  server.drop()
  await until(() => answers.length === 3)
  answers[0]('g0')
  answers[1]('g1')
  await settle(client)
  answers[2]('g2')
  await opened
  assert.deepEqual(server.sent('subscribe').map(({ topic, grant }) => [topic, grant]), [['news', 'g2']])
})

test('one event tells all resets, also of a subscription whose grant comes last', async (t) => {
  const server = await serve(t)
  const client = await open(t, server)
  const resets = record(client, 'reset')
  const answers = []
  const grant = () => (answers.length ? new Promise((resolve) => answers.push(resolve)) : answers.push('g1') && 'g1')
  await Promise.all([client.subscribe('news'), client.subscribe('orders', null, { grant })])
  const opened = next(client, 'open')
  server.drop()
  await until(() => server.sent('subscribe').length === 3 && answers.length === 2)
  await settle(client)
  answers[1]('g2')
  await opened
  assert.deepEqual(resets, [{ topics: ['news', 'orders'] }])
})

for (const code of ['unavailable', 'rate_limited']) {
  test(`a bad grant of another call does not end a subscription that is put off as ${code} meanwhile`, async (t) => {
    const server = await serve(t)
    const client = await open(t, server)
    const [ended, got] = [record(client, 'unsubscribed'), []]
    await client.subscribe('news', ({ message }) => got.push(message), { grant: 'g1' })
    const lost = next(client, 'reconnecting')
    server.drop()
    await lost
    const held = []
    server.decide = (frame, socket) => held.push([socket, frame]) && 'ignore'
    const second = client.subscribe('news', null, { grant: 'bad' })
    await until(() => held.length === 2)
    const [[socket, restore], [, other]] = held
    assert.deepEqual([restore.grant, other.grant], ['g1', 'bad'])
    server.decide = () => undefined
    server.refuse(socket, restore, { code, reason: 'not now', retryable: true })
    server.refuse(socket, other, FORBIDDEN)
    await assert.rejects(second, FORBIDDEN)
    await next(client, 'open')
    await client.publish('news', 1)
    assert.deepEqual([ended, got, client.subscriptions], [[], [1], ['news']])
    assert.equal(server.sent('subscribe').at(-1).grant, 'g1')
  })
}

test('a call that comes while its topic is resumed brings its own grant', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  await client.subscribe('news')
  let second
  server.decide = ({ type }) => {
    if (type === 'resume') second = client.subscribe('news', null, { grant: async () => 'g2' })
  }
  const opened = next(client, 'open')
  server.drop()
  await opened
  await second
  assert.deepEqual(server.sent('subscribe').map(({ grant }) => grant), [undefined, 'g2'])
})

test('a server that answers no resume gets the grant with the subscribe in its place', async (t) => {
  const server = await serve(t, LogServer)
  const timers = clock(t)
  const client = await open(t, server)
  await client.subscribe('news', null, { grant: 'g1' })
  server.decide = ({ type }) => type === 'resume' && 'ignore'
  const lost = next(client, 'reconnecting')
  server.drop()
  timers.tick((await lost).delay)
  await until(() => server.sent('resume').length === 1)
  timers.tick(10_000)
  timers.tick(20) // the pause before the next connection
  await next(client, 'open')
  assert.deepEqual(server.sent('subscribe').map(({ since, grant }) => [since, grant]), [[undefined, 'g1'], ['e1:0', 'g1']])
})

test('a token and a grant are a string or a function', async (t) => {
  assert.throws(() => new PSClient('ws://127.0.0.1:1', { WebSocket, token: 7 }), TypeError)
  const client = connect(t, await serve(t), { token: null })
  assert.throws(() => client.subscribe('news', null, { grant: {} }), TypeError)
  assert.throws(() => client.subscribe('news', null, { onUnsubscribed: 'x' }), TypeError)
})
