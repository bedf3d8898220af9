import { once } from 'node:events'
import { WebSocketServer } from 'ws'

/** The base of both servers: real sockets, a port that survives `kill`, and a record of the frames. */
class Server {
  /** All received frames, parsed, in order, over all connections. */
  frames = []
  /** Open connections: socket -> Set of topics. */
  sessions = new Map()
  /** The number of connections accepted so far. */
  accepted = 0
  #port = 0

  get url() {
    return `ws://127.0.0.1:${this.#port}`
  }

  /** Listen; again on the same port after `kill`. */
  async start() {
    this.server = new WebSocketServer({ host: '127.0.0.1', port: this.#port })
    this.server.on('connection', (socket, request) => {
      this.accepted++
      this.sessions.set(socket, new Set())
      socket.on('message', (data) => this.receive(socket, data.toString()))
      socket.on('close', () => this.sessions.delete(socket))
      this.welcome(socket, request)
    })
    await once(this.server, 'listening')
    this.#port = this.server.address().port
    return this
  }

  /** Die as a process does: no closing handshake. */
  async kill() {
    const closed = once(this.server, 'close')
    this.server.close()
    this.drop()
    await closed
  }

  /** Cut every connection, and go on listening. */
  drop() {
    for (const socket of this.sessions.keys()) socket.terminate()
  }

  /** Close every connection with a code. */
  close(code, reason) {
    for (const socket of this.sessions.keys()) socket.close(code, reason)
  }

  welcome() {}

  /** The topics that some session subscribes to. */
  get topics() {
    return [...this.sessions.values()].flatMap((topics) => [...topics]).sort()
  }

  sent(type) {
    return this.frames.filter((frame) => frame.type === type)
  }

  send(socket, frame) {
    socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame))
  }

  broadcast(frame) {
    for (const socket of this.sessions.keys()) this.send(socket, frame)
  }

  deliver(message) {
    const levels = message.topic.split('.')
    for (let depth = levels.length; depth > 0; depth--) {
      const context = levels.slice(0, depth).join('.')
      for (const [socket, topics] of this.sessions) {
        if (topics.has(context)) this.send(socket, { ...message, context })
      }
    }
  }
}

const now = () => new Date().toISOString()

/** A server that speaks docs/reference/protocol.md, as far as a client can see. */
export class TestServer extends Server {
  /** A test's decision: `{ code, reason, retryable }` refuses a frame, 'ignore' drops it, a falsy value accepts it. */
  decide = () => undefined

  receive(socket, text) {
    let frame
    try {
      frame = JSON.parse(text)
    } catch {
      return this.refuse(socket, {}, { code: 'invalid_json', reason: 'the frame is not JSON' })
    }
    this.frames.push(frame)
    const decision = this.decide(frame, socket)
    if (decision === 'ignore') return
    const refusal = decision || this.invalid(frame)
    if (refusal) return this.refuse(socket, frame, refusal)
    const { type, topic, id } = frame
    if (type === 'subscribe') this.sessions.get(socket)?.add(topic)
    else if (type === 'unsubscribe') this.sessions.get(socket)?.delete(topic)
    else if (type === 'publish') this.deliver({ type, timestamp: frame.timestamp ?? now(), topic, message: frame.message })
    this.send(socket, { type: 'ack', action: type, timestamp: now(), topic, id })
  }

  invalid({ type, topic, ...frame }) {
    if (type === 'authenticate') return
    if (!['subscribe', 'unsubscribe', 'publish'].includes(type)) {
      return { code: 'invalid_message', reason: 'unknown type' }
    }
    if (typeof topic !== 'string' || !/^[^.\s]+(\.[^.\s]+)*$/.test(topic)) {
      return { code: 'invalid_topic', reason: 'an empty level' }
    }
    if (type === 'publish' && !('message' in frame)) return { code: 'invalid_message', reason: 'message is missing' }
  }

  refuse(socket, { type: action, topic, id }, { code, reason, retryable = false }) {
    this.send(socket, { type: 'error', code, reason, retryable, timestamp: now(), action, topic, id })
  }
}

/** A server with a log: cursors, replays, keys. */
export class LogServer extends TestServer {
  epoch = 'e1'
  /** What is kept: `{ offset, topic, message }`. */
  log = []
  /** The offset of the last publication that is not kept any more. */
  floor = 0
  #last = 0
  #keys = new Map()

  get cursor() {
    return `${this.epoch}:${this.#last}`
  }

  /** Keep only the latest. */
  trim(count) {
    this.log = count ? this.log.slice(-count) : []
    this.floor = this.log.length ? this.log[0].offset - 1 : this.#last
  }

  /** Begin another epoch, as after a restart, and send a reset to every session. */
  lose(epoch) {
    Object.assign(this, { epoch, log: [], floor: 0 })
    this.#last = 0
    this.#keys.clear()
    this.broadcast({ type: 'reset', timestamp: now(), cursor: this.cursor })
  }

  /** Publish from elsewhere; return the offset. */
  publish(topic, message) {
    const entry = { offset: ++this.#last, topic, message }
    this.log.push(entry)
    this.deliver(this.#message(entry))
    return entry.offset
  }

  receive(socket, text) {
    const frame = JSON.parse(text)
    const { type, topic, topics, id, since, last, key } = frame
    this.frames.push(frame)
    const decision = this.decide(frame, socket)
    if (decision === 'ignore') return
    if (decision) return this.refuse(socket, frame, decision)
    const session = this.sessions.get(socket) ?? new Set() // the connection may break meanwhile
    const ack = { type: 'ack', action: type, timestamp: now(), topic, id }
    if (type === 'publish') {
      if (!this.#keys.has(key)) this.#keys.set(key, this.publish(topic, frame.message))
      return this.send(socket, { ...ack, offset: this.#keys.get(key) })
    }
    if (type === 'unsubscribe') session.delete(topic)
    if (type === 'subscribe') {
      session.add(topic)
      if (since !== undefined) ack.recovered = this.#replay(socket, [topic], since)[topic]
      else for (const entry of this.#below(topic).slice(last ? -last : Infinity)) this.#send(socket, entry, topic)
    }
    if (type === 'resume') {
      for (const each of topics) session.add(each)
      const recovered = this.#replay(socket, topics, since)
      ack.topics = Object.fromEntries(topics.map((each) => [each, { recovered: recovered[each] }]))
    }
    this.send(socket, { ...ack, cursor: this.cursor })
  }

  #replay(socket, topics, since) {
    const [epoch, offset] = since.split(':')
    const isKept = epoch === this.epoch && offset >= this.floor && offset <= this.#last
    for (const entry of isKept ? this.log : []) {
      if (entry.offset <= offset) continue
      const deepestFirst = [...topics].sort((a, b) => b.length - a.length)
      for (const topic of deepestFirst) {
        if (isBelow(entry.topic, topic)) this.#send(socket, entry, topic)
      }
    }
    return Object.fromEntries(topics.map((topic) => [topic, isKept]))
  }

  #below(topic) {
    return this.log.filter((entry) => isBelow(entry.topic, topic))
  }

  #send(socket, entry, context) {
    this.send(socket, { ...this.#message(entry), context })
  }

  #message({ offset, topic, message }) {
    return { type: 'publish', timestamp: now(), topic, message, offset }
  }
}

const isBelow = (topic, parent) => topic === parent || topic.startsWith(`${parent}.`)

/** A server that answers as dwsps 1.0.1 does: no ids in acks, no errors; it relays all fields of a publish. */
export class OldServer extends Server {
  /** Hold answers back, to send them later in order. */
  held = null

  receive(socket, text) {
    const frame = JSON.parse(text)
    this.frames.push(frame)
    const { type: action, topic } = frame
    if (action === 'subscribe') this.sessions.get(socket).add(topic)
    if (action === 'unsubscribe') this.sessions.get(socket).delete(topic)
    if (action === 'publish') this.deliver(frame)
    const answer = () => this.send(socket, { type: 'ack', action, timestamp: now(), topic })
    if (this.held) this.held.push(answer)
    else answer()
  }
}
