/** The runner of the cases in tests/conformance: a scripted server, and an application that records what it sees. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { WebSocketServer } from 'ws'
import { PSClient, until, WebSocket } from './helpers.mjs'

export const cases = ['recovery', 'access'].flatMap((name) => {
  return JSON.parse(readFileSync(new URL(`../conformance/${name}.json`, import.meta.url)))
})

const END = 'the.end'
const NOW = '2026-01-02T03:04:05.678Z'

/** Run the steps of one case, and check that nothing else happened. */
export async function run({ query = '', token, steps }) {
  const server = await new ScriptedServer().start()
  const app = new Application(`${server.url}${query && `?${query}`}`, credential(token))
  const actors = { client: app.calls, app: app.checks, server: server.steps }
  try {
    for (const [index, step] of steps.flatMap(expand).entries()) {
      const actor = Object.keys(actors).find((name) => name in step)
      const act = actors[actor]?.[step[actor]]
      assert.ok(act, `no such step: ${JSON.stringify(step)}`)
      try {
        await act(step)
      } catch (error) {
        error.message = `step ${index + 1}, ${JSON.stringify(step).slice(0, 200)}: ${error.message}`
        throw error
      }
    }
    if (app.client.state !== 'closed') {
      const ended = app.client.publish(END, null)
      const { key } = await server.next()
      server.steps.acks({ with: {} })
      await ended
      assert.ok(key)
    }
    app.checkNothingElse()
  } finally {
    app.client.close()
    await server.stop()
  }
}

/** Write out the shorthands of a step: the steps that it stands for. */
function expand({ times = 1, steps, ...step }) {
  if (!steps) return [write(step)]
  return Array.from({ length: times }, (_, i) => steps.map((step) => write(step, i))).flat()
}

function write(value, i) {
  if (typeof value === 'string') return fill(value, i)
  if (Array.isArray(value)) return value.flatMap((entry) => (entry?.each ? each(entry) : [write(entry, i)]))
  if (value === null || typeof value !== 'object') return value
  if (value.each) return Object.fromEntries(each(value).map((name) => [name, value.is]))
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, write(entry, i)]))
}

const each = ({ each, from, to }) => Array.from({ length: to - from }, (_, n) => fill(each, from + n))

const fill = (text, i) => text.replaceAll('{i}', i).replaceAll('{pad}', 'x'.repeat(240))

/** A token or a grant: a text, or a function that gives what a list has, one for each call. */
function credential(given) {
  if (!Array.isArray(given)) return given
  const left = [...given]
  return async () => {
    assert.ok(left.length, 'one call too many')
    return left.shift() ?? Promise.reject(new Error('none today'))
  }
}

class ScriptedServer {
  #sockets = [] // accepted ones that no step has taken yet
  #socket = null
  #frames = new Map() // socket -> frames that no step has taken yet
  #named = new Map() // name -> frame
  #keys = new Map() // "$1" -> the key that it stands for
  #last = null

  async start() {
    this.server = new WebSocketServer({ host: '127.0.0.1', port: 0 })
    this.server.on('connection', (socket, request) => {
      this.#sockets.push({ socket, query: request.url.split('?')[1] ?? '' })
      this.#frames.set(socket, [])
      socket.on('message', (data) => this.#frames.get(socket).push(JSON.parse(data)))
    })
    await once(this.server, 'listening')
    this.url = `ws://127.0.0.1:${this.server.address().port}`
    return this
  }

  async stop() {
    const closed = once(this.server, 'close')
    this.server.close()
    for (const socket of this.server.clients) socket.terminate()
    await closed
  }

  async next() {
    const frames = this.#frames.get(this.#socket)
    await until(() => frames.length, 'a frame')
    return (this.#last = frames.shift())
  }

  #send(frame) {
    this.#socket.send(JSON.stringify({ timestamp: NOW, ...frame }))
  }

  #answer(frame, name) {
    const { type: action, topic, id } = name ? this.#named.get(name) : this.#last
    this.#send({ action, topic, id, ...frame })
  }

  /** Replace a key by the name that the case has for it. */
  #nameKey(frame) {
    const name = frame.key
    if (!name) return
    if (!this.#keys.has(name)) {
      assert.ok(![...this.#keys.values()].includes(this.#last.key), `the key of ${name} is used already`)
      this.#keys.set(name, this.#last.key)
    }
  }

  steps = {
    accepts: async ({ query = '' }) => {
      await until(() => this.#sockets.length, 'a connection')
      const accepted = this.#sockets.shift()
      this.#socket = accepted.socket
      assert.equal(accepted.query, query)
    },
    gets: async ({ frame, as }) => {
      const { id, timestamp, ...got } = await this.next()
      assert.ok(id !== undefined)
      this.#named.set(as, this.#last)
      this.#nameKey(frame)
      assert.deepEqual(got, 'key' in frame ? { ...frame, key: this.#keys.get(frame.key) } : frame)
    },
    acks: ({ with: fields, to }) => this.#answer({ type: 'ack', ...fields }, to),
    refuses: ({ with: fields, to }) => this.#answer({ type: 'error', ...fields }, to),
    delivers: ({ topic, context = topic, message, offset }) => {
      this.#send({ type: 'publish', topic, message, context, offset })
    },
    sends: ({ frame }) => this.#send(frame),
    breaks: () => this.#socket.terminate(),
    closes: ({ code }) => this.#socket.close(code),
  }
}

class Application {
  #messages = new Map() // name of a subscription -> messages
  #inside = new Map() // name of a subscription -> calls to make inside its handler
  #endings = new Map() // name of a call -> its ack or its error; empty until it has ended
  #resets = [] // of the client: sorted topics
  #resetTopics = [] // of subscriptions
  #refused = {}
  #closedWith // the code with which the client was closed for good
  #expected = { resets: [], refused: {}, messages: new Map() }

  constructor(url, token) {
    this.client = new PSClient(url, { WebSocket, token, minDelay: 5, maxDelay: 20 })
    this.client.on('unsubscribed', ({ code, topic }) => (this.#refused[topic] = code))
    this.client.on('close', ({ code, willReconnect }) => willReconnect || (this.#closedWith = code))
    this.client.on('reset', ({ topics }) => this.#resets.push(topics.toSorted()))
  }

  calls = {
    subscribe: (step) => this.#call(step, ({ topic, as = topic, since, last, grant }) => {
      const messages = []
      this.#messages.set(as, messages)
      const handler = ({ message }) => {
        messages.push(message)
        for (const later of this.#inside.get(as) ?? []) {
          if (isDeepStrictEqual(later.at, message)) this.calls[later.client]({ ...later, inside: undefined })
        }
      }
      const options = { since: since === '$cursor' ? this.client.cursor : since, last, grant: credential(grant) }
      return this.client.subscribe(topic, handler, { ...options, onReset: () => this.#resetTopics.push(topic) })
    }),
    unsubscribe: (step) => this.#call(step, ({ topic }) => this.client.unsubscribe(topic)),
    publish: (step) => this.#call(step, ({ topic, message }) => this.client.publish(topic, message)),
  }

  #call(step, make) {
    const { inside, as } = step
    if (inside) return void this.#inside.set(inside, [...(this.#inside.get(inside) ?? []), step])
    const endings = []
    if (as) this.#endings.set(as, endings)
    make(step).then((ack) => endings.push(ack), (error) => {
      endings.push(error)
      const isOwn = ['cancelled', 'closed'].includes(error.code)
      if (step.client === 'subscribe' && !isOwn) this.#refused[step.topic] = error.code
    })
  }

  checks = {
    messages: async ({ of, are }) => {
      this.#expected.messages.set(of, are)
      await same(() => this.#messages.get(of), are)
    },
    resets: async ({ are }) => {
      this.#expected.resets = are
      await same(() => this.#resets, are)
      assert.deepEqual(this.#resetTopics.toSorted(), are.flat().toSorted(), 'the resets of the subscriptions')
    },
    refused: async ({ are }) => {
      this.#expected.refused = are
      await same(() => this.#refused, are)
    },
    settles: async ({ call, offset }) => {
      await until(() => this.#endings.get(call).length, `an end of ${call}`)
      const [ack] = this.#endings.get(call)
      assert.equal(ack.type, 'ack', ack)
      assert.equal(ack.offset, offset)
    },
    fails: async ({ call, code }) => {
      await until(() => this.#endings.get(call).length, `an end of ${call}`)
      assert.equal(this.#endings.get(call)[0].code, code)
    },
    cursor: ({ is }) => same(() => this.client.cursor, is),
    'is closed': ({ code }) => same(() => this.#closedWith, code),
    'loses the connection': () => until(() => this.client.state === 'reconnecting'),
  }

  checkNothingElse() {
    for (const [name, messages] of this.#messages) {
      assert.deepEqual(messages, this.#expected.messages.get(name) ?? [], `the messages of ${name}`)
    }
    assert.deepEqual(this.#resets, this.#expected.resets, 'the resets')
    assert.deepEqual(this.#refused, this.#expected.refused, 'the refused subscriptions')
  }
}

/** Wait until a value is as expected; if it never is, show both. */
async function same(get, expected) {
  await until(() => isDeepStrictEqual(get(), expected), 'x').catch(() => assert.deepEqual(get(), expected))
}
