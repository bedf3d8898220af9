/** What the conformance suite cannot say of this client: its API, its events, and chance. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { clock, connect, next, open, record, serve, settle, speak, until, WebSocket } from './helpers.mjs'
import { LogServer } from './servers.mjs'

const messages = (client, topic, options) => {
  const got = []
  client.subscribe(topic, ({ message }) => got.push(message), options)
  return got
}

/** Break the connection, publish meanwhile, and wait until the client is back. */
async function blink(server, client, ...publications) {
  const opened = next(client, 'open')
  server.drop()
  for (const [topic, message] of publications) server.publish(topic, message)
  await opened
}

test('what was published during a break comes before "open", in order and once, to handlers and to listeners', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const log = []
  await client.subscribe('news', ({ message }) => log.push(['news', message, client.state]))
  await client.subscribe('news.uk', ({ message }) => log.push(['news.uk', message, client.state]))
  client.on('message', ({ context, offset }) => log.push(['message', context, offset]))
  client.on('open', () => log.push(['open']))
  await blink(server, client, ['news', 1], ['news.uk', 2], ['other', 3])
  assert.deepEqual(log, [
    ['message', 'news', 1],
    ['news', 1, 'reconnecting'],
    ['message', 'news.uk', 2],
    ['news.uk', 2, 'reconnecting'],
    ['message', 'news', 2],
    ['news', 2, 'reconnecting'],
    ['open'],
  ])
  assert.equal(client.cursor, 'e1:3')
})

test('a reset is told to the subscription, then to listeners, before "open"', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const log = []
  const onReset = ({ topic }) => log.push(topic)
  await client.subscribe('a', null, { onReset })
  await client.subscribe('a', () => {}, { onReset }) // the same function: told once
  await client.subscribe('b', null, { onReset })
  await client.subscribe('c')
  client.on('reset', ({ topics }) => log.push(topics))
  client.on('open', () => log.push('open'))
  const opened = next(client, 'open')
  server.drop()
  server.publish('a', 1)
  server.trim(0)
  await opened
  assert.deepEqual(log, ['a', 'b', ['a', 'b', 'c'], 'open'])
})

test('a subscription that was taken back, or dropped by a reset, is not told', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const told = []
  const gone = client.subscribe('a', () => {}, { onReset: () => told.push('gone') })
  await client.subscribe('a', () => {}, {
    onReset() {
      told.push('a')
      client.unsubscribe('b')
    },
  })
  await client.subscribe('b', null, { onReset: () => told.push('b') })
  await gone.unsubscribe()
  const resets = record(client, 'reset')
  server.lose('e2')
  await settle(client)
  assert.deepEqual([told, resets], [['a'], [{ topics: ['a'] }]])
})

test('last and since start in the past; the ack says whether that worked', async (t) => {
  const server = await serve(t, LogServer)
  for (const n of [1, 2, 3, 4]) server.publish('news', n)
  const client = await open(t, server)
  const got = []
  const keep = (name) => ({ message }) => got.push([name, message])
  const last = await client.subscribe('news', keep('last'), { last: 2 })
  assert.deepEqual([last.cursor, last.recovered], ['e1:4', undefined])
  const since = await client.subscribe('news', keep('since'), { since: 'e1:1' })
  assert.equal(since.recovered, true)
  const resets = record(client, 'reset')
  const stale = await client.subscribe('news', keep('stale'), { since: 'e0:1' })
  assert.equal(stale.recovered, false)
  assert.deepEqual(resets, [{ topics: ['news'] }])
  assert.deepEqual(got, [['last', 3], ['last', 4], ['since', 2], ['since', 3], ['since', 4]])
  server.publish('news', 5)
  await settle(client)
  assert.deepEqual(got.slice(5), [['last', 5], ['since', 5], ['stale', 5]])
})

test('two subscribes with different starts, made at once, get their own replays', async (t) => {
  const server = await serve(t, LogServer)
  for (const n of [1, 2, 3]) server.publish('news', n)
  const client = connect(t, server)
  const got = [messages(client, 'news', { last: 1 }), messages(client, 'news', { last: 2 }), messages(client, 'news')]
  await next(client, 'open')
  server.publish('news', 4)
  await settle(client)
  assert.deepEqual(got, [[3, 4], [2, 3, 4], [4]])
})

test('a new call waits for its own answer while the topic is resumed: what is replayed is not for it', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const first = messages(client, 'news')
  await settle(client)
  const closed = next(client, 'close')
  server.drop()
  server.publish('news', 1)
  await closed
  const second = messages(client, 'news')
  const third = messages(client, 'news', { last: 1 })
  await next(client, 'open')
  await settle(client)
  server.publish('news', 2)
  await settle(client)
  assert.deepEqual([first, second, third], [[1, 2], [2], [1, 2]])
})

test('a handler that takes itself back in the middle of its replay gets no more of it', async (t) => {
  const server = await serve(t, LogServer)
  for (const n of [1, 2, 3]) server.publish('news', n)
  const client = await open(t, server)
  const got = []
  const handle = client.subscribe('news', ({ message }) => {
    got.push(message)
    handle.unsubscribe()
  }, { last: 3 })
  await handle
  await settle(client)
  assert.deepEqual([got, client.subscriptions], [[1], []])
})

test('options of subscribe are checked', async (t) => {
  const client = await open(t, await serve(t, LogServer))
  for (const bad of [{ since: 7 }, { since: 'x'.repeat(129) }, { last: -1 }, { last: 1.5 }, { last: '1' }, { since: 'e:1', last: 1 }, { onReset: 1 }]) {
    assert.throws(() => client.subscribe('a', null, bad), TypeError, JSON.stringify(bad))
  }
  for (const none of [{}, { since: null, last: null, onReset: null }, { since: '' }, { since: '', last: 0 }]) {
    await client.subscribe('a', null, none)
  }
})

test('the page\'s cursor of a function\'s first URL counts, and what the first "open" subscribes to starts from it', async (t) => {
  const server = await serve(t, LogServer)
  for (const n of [1, 2, 3]) server.publish('news', n)
  const client = connect(t, () => `${server.url}/?since=e1:1&a=b`)
  const early = messages(client, 'news')
  const inOpen = []
  client.on('open', ({ reconnected }) => reconnected || inOpen.push(messages(client, 'news')))
  await next(client, 'open')
  await settle(client)
  assert.deepEqual([early, inOpen], [[2, 3], [[2, 3]]])
  assert.match(client.url, /\/\?a=b$/)
  const late = messages(client, 'news')
  await blink(server, client, ['news', 4])
  assert.deepEqual([early, inOpen, late], [[2, 3, 4], [[2, 3, 4]], [4]])
})

test('many publishes in flight are sent again in order, before those that were made meanwhile', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const got = messages(client, 'n')
  await settle(client)
  // The server has published the first 30 when the connection breaks, and no ack arrives.
  server.decide = ({ topic, message, key }, socket) => {
    if (topic !== 'n') return
    if (message === 30) socket.terminate()
    return message >= 30 ? 'ignore' : undefined
  }
  const { send } = server
  server.send = (socket, frame) => frame.type !== 'ack' && send.call(server, socket, frame)
  const calls = Array.from({ length: 60 }, (_, n) => client.publish('n', n))
  await next(client, 'close')
  Object.assign(server, { send, decide: () => undefined })
  calls.push(client.publish('n', 60))
  const acks = await Promise.all(calls)
  const all = Array.from({ length: 61 }, (_, n) => n)
  assert.deepEqual(server.log.filter(({ topic }) => topic === 'n').map(({ message }) => message), all)
  assert.deepEqual(got, all)
  const offsets = acks.map(({ offset }) => offset)
  assert.deepEqual(offsets, offsets.toSorted((a, b) => a - b))
})

test('any number of publishes in flight outlives the connection', async (t) => {
  const server = await serve(t, LogServer)
  let isLost = false
  class Losing extends WebSocket {
    send(text) {
      if (!isLost) super.send(text)
    }
  }
  const client = await open(t, server, { WebSocket: Losing })
  await client.publish('a', 0)
  isLost = true
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0 // a stack for each of them would take most of the time
  t.after(() => (Error.stackTraceLimit = stackTraceLimit))
  const count = 130_000 // more than a function takes as arguments
  const publishes = Array.from({ length: count }, (_, n) => client.publish('a', n))
  const closed = next(client, 'close')
  server.drop()
  await closed
  client.close()
  const ends = await Promise.allSettled(publishes)
  assert.ok(ends.every(({ reason }) => reason?.code === 'closed'))
})

test('a publish in flight fails if the server may have forgotten its key', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  await client.publish('a', 0)
  server.decide = () => 'ignore'
  const { now } = Date
  t.after(() => (Date.now = now))
  const published = client.publish('a', 1)
  await until(() => server.frames.length === 2)
  const closed = next(client, 'close')
  await server.kill()
  await closed
  Date.now = () => now() + 5 * 60_000 // the laptop has slept
  server.decide = () => undefined
  await server.start()
  await assert.rejects(published, { code: 'connection_lost', retryable: true, reason: /before the ack/ })
  await client.publish('a', 2)
  assert.deepEqual(server.log.map(({ message }) => message), [0, 2])
})

test('close() settles publishes that wait to be sent again', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  await client.publish('a', 0)
  server.decide = () => 'ignore'
  const published = client.publish('a', 1)
  await until(() => server.frames.length === 2)
  const closed = next(client, 'close')
  server.drop()
  await closed
  client.close()
  await assert.rejects(published, { code: 'closed' })
})

test('keys differ between clients, and are short', async (t) => {
  const server = await serve(t, LogServer)
  const clients = await Promise.all([open(t, server), open(t, server)])
  for (const client of clients) await Promise.all([client.publish('a', 1), client.publish('a', 1)])
  const keys = server.sent('publish').map(({ key }) => key)
  assert.equal(new Set(keys).size, 4)
  for (const key of keys) assert.ok(key.length <= 64)
})

test('subscribing to a topic that the server puts off resumes it, and waits', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const first = messages(client, 'a')
  await settle(client)
  server.decide = ({ type, topics, id }, socket) => {
    if (type !== 'resume') return
    const error = { code: 'unavailable', reason: 'not now', retryable: true }
    server.send(socket, { type: 'ack', action: type, id, cursor: server.cursor, topics: { a: { error } } })
    return 'ignore'
  }
  const errors = record(client, 'error')
  server.drop()
  server.publish('a', 1)
  await until(() => errors.length >= 2)
  assert.deepEqual([errors[0].code, errors[0].action, errors[0].topic], ['unavailable', 'subscribe', 'a'])
  const second = messages(client, 'a', { last: 5 })
  server.decide = () => undefined
  await next(client, 'open')
  await settle(client)
  assert.deepEqual([first, second], [[1], [1]])
})

test('a reset while a topic is put off is told once: the topic is resumed from there', async (t) => {
  t.mock.method(Math, 'random', () => 1) // it is put off for as long as it may be
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const got = messages(client, 'a')
  const resets = record(client, 'reset')
  await settle(client)
  server.decide = ({ type, id }, socket) => {
    if (type !== 'resume') return
    const error = { code: 'unavailable', reason: 'not now', retryable: true }
    server.send(socket, { type: 'ack', action: type, id, cursor: server.cursor, topics: { a: { error } } })
    server.decide = () => undefined
    server.lose('e2')
    server.publish('a', 1)
    return 'ignore'
  }
  const opened = next(client, 'open')
  server.drop()
  await opened
  assert.deepEqual([got, resets], [[1], [{ topics: ['a'] }]])
})

test('a reset while a resume is unanswered is told after the answer: until then more may be missed', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const told = []
  await client.subscribe('a', ({ message }) => told.push(message), { onReset: () => told.push('reset') })
  const resume = await new Promise((resolve) => {
    server.decide = (frame, socket) => {
      if (frame.type !== 'resume') return
      server.decide = () => undefined
      resolve(() => server.receive(socket, JSON.stringify(frame)))
      return 'ignore'
    }
    server.drop()
  })
  server.lose('e2')
  await until(() => client.cursor === 'e2:0')
  server.publish('a', 1) // after the reset, but nobody is sent it
  assert.deepEqual(told, [])
  resume()
  await next(client, 'open')
  server.publish('a', 2)
  await settle(client)
  assert.deepEqual(told, ['reset', 2])
})

test('a reset while a resume is unanswered is told though the connection breaks before the answer', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const got = messages(client, 'a')
  const resets = record(client, 'reset')
  await settle(client)
  server.decide = ({ type }) => (type === 'resume' ? 'ignore' : undefined)
  server.drop()
  await until(() => server.frames.at(-1).type === 'resume')
  server.lose('e2')
  await until(() => client.cursor === 'e2:0')
  server.decide = () => undefined
  await blink(server, client, ['a', 1])
  server.publish('a', 2)
  await settle(client)
  assert.deepEqual([got, resets], [[2], [{ topics: ['a'] }]])
})

test('a topic that is put off when the connection breaks again is resumed from its own cursor', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server, { minDelay: 20 })
  const got = [messages(client, 'a'), messages(client, 'b')]
  await settle(client)
  server.decide = ({ type, topics, id }, socket) => {
    if (type !== 'resume') return
    const error = { code: 'unavailable', reason: 'not now', retryable: true }
    const answers = Object.fromEntries(topics.map((topic) => [topic, topic === 'a' ? { recovered: true } : { error }]))
    for (const topic of topics) if (topic === 'a') server.sessions.get(socket).add(topic)
    server.send(socket, { type: 'ack', action: type, id, cursor: server.cursor, topics: answers })
    return 'ignore'
  }
  const errors = record(client, 'error')
  server.drop()
  await until(() => errors.length)
  server.publish('b', 1)
  server.publish('a', 2)
  await until(() => got[0].length)
  server.decide = () => undefined
  await blink(server, client, ['b', 3])
  assert.deepEqual(got, [[2], [1, 3]])
  const resumes = server.sent('resume').slice(-2)
  assert.notEqual(resumes[0].since, resumes[1].since)
})

test('a replay of the last has no more than those, though live ones came before it', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  await client.subscribe('a')
  server.decide = ({ type }) => {
    if (type === 'subscribe') for (const n of [1, 2, 3]) server.publish('a', n) // between the call and its answer
  }
  const got = messages(client, 'a', { last: 2 })
  await settle(client)
  assert.deepEqual(got, [2, 3])
})

test('with dwsps1, what is replayed is text as well, and subscribing in "open" repeats nothing', async (t) => {
  const server = await serve(t, LogServer)
  const client = connect(t, server, { dwsps1: true })
  const got = []
  const resets = record(client, 'reset')
  client.on('open', () => client.subscribe('a', (text) => got.push(JSON.parse(text).message)))
  await next(client, 'open')
  await settle(client)
  await blink(server, client, ['a', 1])
  await settle(client)
  server.publish('a', 2)
  await settle(client)
  assert.deepEqual([got, resets], [[1, 2], []])
})

for (const isChatty of [true, false]) {
  test(`a resume that a ${isChatty ? 'chatty' : 'silent'} server leaves unanswered is made topic by topic`, async (t) => {
    const server = await serve(t, LogServer)
    const timers = clock(t)
    const client = await open(t, server)
    const got = []
    const resets = record(client, 'reset')
    const reconnecting = record(client, 'reconnecting')
    const reconnect = async () => {
      const { length } = reconnecting
      server.drop()
      await until(() => reconnecting.length > length)
      timers.tick(reconnecting.at(-1).delay)
    }
    for (const topic of ['a', 'b', 'c']) await client.subscribe(topic, ({ message }) => got.push(message))
    server.decide = ({ type }) => type === 'resume' && 'ignore'
    await reconnect()
    server.publish('a', 1)
    server.publish('c', 2)
    await until(() => server.sent('resume').length === 1)
    if (isChatty) await speak(server, client, server.cursor)
    timers.tick(10_000)
    assert.equal(reconnecting.length, isChatty ? 1 : 2)
    timers.tick(20) // the longest pause: before the next connection, or on this one
    await next(client, 'open')
    assert.deepEqual([got.toSorted(), resets, client.cursor], [[1, 2], [], server.cursor])
    server.decide = () => {}
    server.frames.length = 0
    await reconnect()
    await next(client, 'open')
    assert.deepEqual(server.frames.map(({ type }) => type), ['resume'])
  })
}

test('a server with another log that breaks amid the recovery costs nothing that the first one has', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const topics = Array.from({ length: 140 }, (_, n) => `t${n}.${'x'.repeat(240)}`) // more than one resume takes
  const got = []
  for (const topic of topics) client.subscribe(topic, ({ message }) => got.push(message))
  const fill = (count) => { for (let n = 0; n < count; n++) server.publish('other', n) }
  fill(5)
  await client.subscribe('last')
  assert.equal(client.cursor, 'e1:5')
  let resumes = 0
  server.decide = ({ type }) => type === 'resume' && resumes++ > 0 && 'ignore'
  server.drop()
  server.lose('e2')
  fill(50)
  await until(() => resumes === 2)
  await settle(client).catch(() => {}) // the answer to the first one is there
  server.decide = () => {}
  server.drop()
  server.lose('e1')
  fill(5)
  server.publish(topics[0], 'a')
  await next(client, 'open')
  assert.deepEqual([got, client.cursor], [['a'], 'e1:6'])
})

test('answers of a resume that say nothing, or nonsense, are no answers: the client subscribes, and tells a reset', async (t) => {
  const server = await serve(t, LogServer)
  for (const topics of [undefined, null, 7, [], {}, { a: null }, { a: { recovered: 'yes' } }, { __proto__: { a: { recovered: true } } }]) {
    const client = await open(t, server)
    await client.subscribe('a')
    server.decide = ({ type, id }, socket) => {
      if (type !== 'resume') return
      server.send(socket, { type: 'ack', action: type, id, cursor: server.cursor, topics })
      return 'ignore'
    }
    const reset = next(client, 'reset')
    await blink(server, client)
    assert.deepEqual(await reset, { topics: ['a'] })
    client.close()
  }
})

test('a cursor or an offset that is none is ignored, and a reset without a cursor is no frame', async (t) => {
  const server = await serve(t, LogServer)
  const client = await open(t, server)
  const got = messages(client, 'a')
  await settle(client)
  const errors = record(client, 'error')
  for (const cursor of ['', 'x', ':1', 'e:', 'e:-1', 'e:1e3', `${'e'.repeat(33)}:1`, 'e:99999999999999999']) {
    server.broadcast({ type: 'ack', action: 'unsubscribe', topic: 'z', cursor })
    await until(() => client.cursor === '', cursor)
  }
  for (const offset of ['1', 1.5, null, {}, 2 ** 60]) {
    for (const message of [offset, offset]) server.broadcast({ type: 'publish', topic: 'a', message, offset })
  }
  for (const cursor of [undefined, 7, null]) server.broadcast({ type: 'reset', cursor })
  await settle(client)
  assert.equal(got.length, 10)
  assert.deepEqual(errors.map(({ code }) => code), ['invalid_frame', 'invalid_frame', 'invalid_frame'])
})

for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
  test(`whatever breaks, each subscription has every message in order and once, or a reset (seed ${seed})`, async (t) => {
    const random = generator(seed)
    const below = (n) => Math.floor(random() * n)
    const server = await serve(t, LogServer)
    const client = connect(t, server)
    const published = [] // topics; a message is its index
    const publish = (count) => {
      for (let n = 0; n < count; n++) {
        const topic = ['a', 'a.b', 'a.b.c', 'd', 'd.e'][below(5)]
        server.publish(topic, published.push(topic) - 1)
      }
    }
    const topics = ['a', 'a.b', 'a.b.c', 'd']
    const seen = topics.map((topic) => {
      const got = []
      client.subscribe(topic, ({ message }) => got.push(message), { onReset: () => got.push('reset') })
      return got
    })
    // A connection breaks after some frames that the server has sent on it.
    const { send } = server
    let left = Infinity
    server.send = (socket, frame) => {
      send.call(server, socket, frame)
      if (--left === 0) socket.terminate()
    }
    await next(client, 'open')
    let epoch = 1
    for (let round = 0; round < 60; round++) {
      publish(below(6))
      const event = below(10)
      if (event < 5) left = 1 + below(12)
      else if (event === 5) server.trim(below(20))
      else if (event === 6) server.drop()
      else if (event === 7) server.lose(`e${++epoch}`)
      if (below(2)) await new Promise((resolve) => setTimeout(resolve, below(15)))
    }
    left = Infinity
    await settle(client) // it is connected, or is again
    publish(5)
    server.publish('d', published.push('d') - 1)
    server.publish('a.b.c', published.push('a.b.c') - 1)
    const marks = { d: published.length - 2 } // the last for each
    await until(() => topics.every((topic, index) => seen[index].includes(marks[topic] ?? published.length - 1)))
    for (const [index, topic] of topics.entries()) check(seen[index], published, topic)
  })
}

/** Between resets, a subscription has had an unbroken piece of what was published below its topic; the last one to the end. */
function check(got, published, topic) {
  const all = published.flatMap((each, n) => (each === topic || each.startsWith(`${topic}.`) ? [n] : []))
  const pieces = [[]]
  for (const entry of got) {
    if (entry === 'reset') pieces.push([])
    else pieces.at(-1).push(entry)
  }
  for (const piece of pieces) {
    const start = all.indexOf(piece[0])
    assert.deepEqual(piece, piece.length ? all.slice(start, start + piece.length) : [], topic)
  }
  const flat = pieces.flat()
  assert.deepEqual(flat, flat.toSorted((a, b) => a - b), topic)
  assert.equal(flat.at(-1), all.at(-1), topic)
}

/** Random numbers from 0 to 1 that a seed decides (Lehmer's). */
function generator(seed) {
  let state = seed
  for (let n = 0; n < 10; n++) state = (state * 48271) % 2147483647
  return () => (state = (state * 48271) % 2147483647) / 2147483647
}
