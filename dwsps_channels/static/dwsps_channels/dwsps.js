/**
 * The JavaScript client of a dwsps server: an ES module for browsers, and for Node with a WebSocket passed in.
 * docs/javascript.md is the manual, docs/protocol.md says what is on the wire.
 */

/** Options and their defaults; times in milliseconds. */
const DEFAULTS = {
  timeout: 10_000, // how long the server may take to accept a connection or to answer a call
  queueSize: 1000, // how many publishes may wait for a connection
  minDelay: 500, // ceiling of the first delay before reconnecting
  maxDelay: 20_000, // ceiling of the last one
}

/** A connection that held for so long (ms) was a good one: after it, delays start again at `minDelay`. */
const STABLE_AFTER = 10_000

// The ranges of close codes by which the server says what to do (docs/protocol.md). After any other: backoff.
const staysAway = (code) => code >= 4000 && code <= 4099
const returnsAtOnce = (code) => code >= 4200 && code <= 4299

const utf8 = new TextDecoder('utf-8', { fatal: true })

/** Why a call failed, or what the server said about the connection. `code` is the server's or one of the client's. */
export class PSError extends Error {
  constructor(code, reason, { retryable = false, action, topic, cause } = {}) {
    super([action, topic, code, reason].filter(Boolean).join(': '), cause && { cause })
    this.name = 'PSError'
    Object.assign(this, { code, reason, retryable, action, topic })
  }
}

export class PSClient {
  #url
  #WebSocket
  #options = {}
  #state = 'connecting'
  #socket = null // the current one; what an older one still says is ignored
  #ready = false // the socket takes frames; 'open' may not have been told yet
  #opens = 0 // how often 'open' was told
  #attempt = 0 // reconnections since the last stable connection
  #hurried = false // whether one of them was at once
  #refusals = 0 // how often the server put off subscriptions from before, on this connection
  #farewell = '' // why this connection ends, as far as known, where the close itself gives no reason
  #heard = 0 // when the last frame came
  #lastId = 0
  #calls = new Map() // id -> call sent and not answered, in order of sending, hence of deadline
  #queue = [] // publishes that wait for a connection
  #topics = new Map() // topic -> subscription: what the user wants, whether or not the server knows
  #listeners = new Map() // event -> [{ listener, once }]; an array is replaced, never changed
  #opening = null // stands for the 'open' listener that is running
  #timers = {}

  /**
   * Connects at once. Listeners added in the same turn miss nothing.
   * @param {string | URL} url  ws(s), http(s), or relative to the page
   * @param {object} [options]  `WebSocket`, and what DEFAULTS lists
   * @throws {TypeError} without a WebSocket, for a bad option, or where the URL cannot be resolved
   */
  constructor(url, { WebSocket = globalThis.WebSocket, ...options } = {}) {
    if (typeof WebSocket !== 'function') throw new TypeError('no WebSocket here, pass one: { WebSocket }')
    const resolved = new URL(url, globalThis.location?.href)
    resolved.protocol = resolved.protocol.replace(/^http/, 'ws')
    resolved.hash = '' // a WebSocket refuses one
    this.#url = resolved.href
    this.#WebSocket = WebSocket
    for (const [name, standard] of Object.entries(DEFAULTS)) {
      const value = options[name] ?? standard
      if (!(value >= 0)) throw new TypeError(`${name} is a number, and not negative`)
      this.#options[name] = value
    }
    this.#connect()
    globalThis.addEventListener?.('online', this.#wake)
    globalThis.document?.addEventListener('visibilitychange', this.#wake)
  }

  /** The address connected to, resolved. */
  get url() {
    return this.#url
  }

  /** 'connecting' | 'open' | 'reconnecting' | 'closed' */
  get state() {
    return this.#state
  }

  /** The topics subscribed to, those included that wait for a connection or an ack. */
  get subscriptions() {
    return [...this.#topics.keys()]
  }

  on(event, listener) {
    return this.#listen(event, listener, false)
  }

  once(event, listener) {
    return this.#listen(event, listener, true)
  }

  off(event, listener) {
    this.#listeners.set(event, (this.#listeners.get(event) ?? []).filter((entry) => entry.listener !== listener))
    return this
  }

  /**
   * Subscribe to a topic and its sub-topics, across reconnections, until `unsubscribe`.
   * @returns {Promise<object>} the ack; where it rejects, the handler is not attached
   */
  subscribe(topic, handler) {
    if (handler != null && typeof handler !== 'function') throw new TypeError('a handler is a function')
    const call = deferred('subscribe', topic)
    if (this.#refuses(call)) return call.promise
    let subscription = this.#topics.get(topic)
    if (!subscription) {
      // handlers: function -> the 'open' listener it came from. waiting: calls for the next connection to answer.
      // asked: frames not answered. live: acknowledged on this connection. granted: acknowledged on any.
      subscription = { topic, handlers: new Map(), waiting: [], asked: 0, live: false, granted: false }
      this.#topics.set(topic, subscription)
    }
    if (handler) {
      if (!subscription.handlers.has(handler)) call.handler = handler
      this.#attach(subscription.handlers, handler)
    }
    if (this.#ready) this.#ask(subscription, [call])
    else subscription.waiting.push(call)
    return call.promise
  }

  /**
   * Drop a subscription with all its handlers. Subscriptions to its sub-topics stay.
   * @returns {Promise<object>} the ack; the client's own where there is no connection, hence nothing to undo
   */
  unsubscribe(topic) {
    const call = deferred('unsubscribe', topic)
    if (this.#refuses(call)) return call.promise
    this.#topics.get(topic)?.waiting.forEach(cancel)
    this.#topics.delete(topic)
    const lost = () => call.resolve({ type: 'ack', action: 'unsubscribe', timestamp: new Date().toISOString(), topic })
    if (this.#ready) this.#send(call, [call], { done: call.resolve, fail: (error) => this.#fail(call, error), lost })
    else lost()
    return call.promise
  }

  /**
   * Publish a JSON value, as it is now. Without a connection it waits for one.
   * @returns {Promise<object>} the ack: the server has taken it
   */
  publish(topic, message) {
    const call = deferred('publish', topic)
    if (this.#refuses(call)) return call.promise
    try {
      // The time is that of the call, however long it waits.
      call.fields = `,"timestamp":"${new Date().toISOString()}","message":${encode(message)}`
    } catch (cause) {
      this.#fail(call, failure(call, 'invalid_message', cause.message, { cause }))
      return call.promise
    }
    const { queueSize } = this.#options
    if (this.#ready) this.#post(call)
    else if (this.#queue.length < queueSize) this.#queue.push(call)
    else this.#fail(call, failure(call, 'queue_full', `${queueSize} publishes wait already`, { retryable: true }))
    return call.promise
  }

  /** Close for good. Calls that are not answered yet reject with `closed`. */
  close() {
    if (this.#state === 'closed') return
    const socket = this.#socket
    this.#finish(1000, '', (call) => call.reject(failure(call, 'closed', 'the client was closed')))
    socket?.close(1000)
  }

  // Connection

  #connect() {
    const socket = new this.#WebSocket(this.#url)
    const current = (handle) => (event) => {
      if (this.#socket === socket) handle(event)
    }
    this.#socket = socket
    this.#farewell = ''
    socket.binaryType = 'arraybuffer'
    socket.onopen = current(() => this.#restore())
    socket.onmessage = current((event) => this.#receive(event.data))
    socket.onerror = current((event) => (this.#farewell ||= event.message ?? '')) // ws says why, browsers do not
    socket.onclose = current((event) => this.#lost(event.code, event.reason))
    this.#after('connect', this.#options.timeout, () => this.#abandon('the server did not accept the connection'))
  }

  #reconnect() {
    try {
      this.#connect()
    } catch (error) {
      this.#lost(1006, error.message) // a WebSocket of the user's may throw, and nobody is there to catch it
    }
  }

  /** The network is back, or the page is looked at again: do not wait any longer. */
  #wake = ({ type }) => {
    if (type === 'visibilitychange' && globalThis.document.visibilityState !== 'visible') return
    if (this.#state === 'reconnecting' && !this.#socket) this.#reconnect()
  }

  /** The socket is open: subscribe again, then send what waits. 'open' is told when the subscriptions are answered. */
  #restore() {
    this.#ready = true
    this.#refusals = 0
    this.#stop('connect')
    this.#after('stable', STABLE_AFTER, () => {
      this.#attempt = 0
      this.#hurried = false
    })
    let unanswered = this.#topics.size
    const answered = () => --unanswered === 0 && this.#opened()
    for (const subscription of this.#topics.values()) this.#ask(subscription, subscription.waiting.splice(0), answered)
    for (const call of this.#queue.splice(0)) this.#post(call)
    if (unanswered === 0) this.#opened()
  }

  #opened() {
    if (!this.#ready) return // a listener closed the client meanwhile
    this.#state = 'open'
    this.#emit('open', { reconnected: this.#opens++ > 0 })
  }

  /** Give up a silent socket without waiting for its closing handshake, which may take minutes. */
  #abandon(reason) {
    const socket = this.#socket
    this.#lost(1006, reason)
    socket.close()
  }

  /** Forget the connection, and return what was sent on it and not answered. */
  #release() {
    const calls = [...this.#calls.values()].filter((call) => !call.expired)
    this.#stop(...Object.keys(this.#timers))
    this.#calls.clear()
    this.#socket = null
    this.#ready = false
    for (const subscription of this.#topics.values()) Object.assign(subscription, { live: false, asked: 0 })
    return calls
  }

  #lost(code, closeReason) {
    const reason = closeReason || this.#farewell
    if (staysAway(code)) {
      const why = `the server closed the connection for good: ${code} ${reason}`.trimEnd()
      return this.#finish(code, reason, (call) => this.#fail(call, failure(call, 'closed', why)))
    }
    const wasOpen = this.#state === 'open'
    const calls = this.#release()
    const delay = returnsAtOnce(code) && !this.#hurried ? 0 : this.#jitter(this.#attempt)
    const attempt = ++this.#attempt
    this.#hurried ||= returnsAtOnce(code)
    this.#state = 'reconnecting'
    this.#after('connect', delay, () => this.#reconnect())
    for (const call of calls) call.lost(reason)
    if (wasOpen && this.#state !== 'closed') this.#emit('close', { code, reason, willReconnect: true })
    if (this.#state !== 'closed') this.#emit('reconnecting', { attempt, delay, code, reason })
  }

  #finish(code, reason, reject) {
    const sent = this.#release().flatMap((call) => call.users)
    const waiting = [...this.#topics.values()].flatMap((subscription) => subscription.waiting)
    const unanswered = [...sent, ...waiting, ...this.#queue]
    this.#state = 'closed'
    this.#topics.clear()
    this.#queue = []
    globalThis.removeEventListener?.('online', this.#wake)
    globalThis.document?.removeEventListener('visibilitychange', this.#wake)
    unanswered.forEach(reject)
    this.#emit('close', { code, reason, willReconnect: false })
  }

  /** Full jitter: anything up to a ceiling that doubles, so that clients lost together do not return together. */
  #jitter(attempt) {
    const { minDelay, maxDelay } = this.#options
    return Math.random() * Math.min(maxDelay, minDelay * 2 ** attempt)
  }

  // Calls

  /** Send a frame. One of `done(ack)`, `fail(error)` and `lost(reason)` is called; `users` wait for it. */
  #send({ action, topic, fields = '' }, users, outcome) {
    const id = ++this.#lastId
    const { timeout } = this.#options
    this.#calls.set(id, { action, topic, users, sent: performance.now(), expired: false, ...outcome })
    this.#socket.send(`{"type":"${action}","id":${id},"topic":${JSON.stringify(topic)}${fields}}`)
    if (!this.#timers.timeout) this.#after('timeout', timeout, () => this.#expire())
  }

  #post(call) {
    const fail = (error) => this.#fail(call, error)
    const lost = (reason) => {
      const unknown = ['the connection broke before the ack', reason].filter(Boolean).join(': ')
      fail(failure(call, 'connection_lost', unknown, { retryable: true }))
    }
    this.#send(call, [call], { done: call.resolve, fail, lost })
  }

  /** Ask the server for a subscription, on behalf of the calls that wait for its answer (none: subscribing again). */
  #ask(subscription, users, answered = () => {}) {
    const { topic } = subscription
    subscription.asked++
    this.#send({ action: 'subscribe', topic }, users, {
      done: (ack) => {
        subscription.asked--
        subscription.live = subscription.granted = true
        for (const call of users) call.resolve(ack)
        answered()
      },
      fail: (error) => {
        subscription.asked--
        this.#refused(subscription, users, error)
        answered()
      },
      lost: () => {
        if (this.#topics.get(topic) === subscription) subscription.waiting.push(...users)
        else users.forEach(cancel)
      },
    })
  }

  #refused(subscription, users, error) {
    const { topic } = subscription
    for (const call of users) {
      subscription.handlers.delete(call.handler)
      call.reject(error)
    }
    const superseded = this.#topics.get(topic) !== subscription || subscription.live || subscription.asked > 0
    if (!superseded && subscription.granted && error.retryable) {
      if (!this.#timers.again) this.#after('again', this.#jitter(this.#refusals++), () => this.#askAgain())
    } else if (!superseded) {
      this.#topics.delete(topic)
      // The server may still come round to it: it must not deliver what nobody knows of.
      if (error.code === 'timeout') this.#send({ action: 'unsubscribe', topic }, [], IGNORE)
    }
    this.#emit('error', error)
  }

  #askAgain() {
    for (const subscription of this.#topics.values()) {
      if (!subscription.live && !subscription.asked) this.#ask(subscription, [])
    }
  }

  /** The oldest calls have waited long enough. If nothing came at all since, it is the connection that is dead. */
  #expire() {
    const { timeout } = this.#options
    for (const call of this.#calls.values()) {
      if (call.expired) continue
      const left = call.sent + timeout - performance.now()
      if (left > 0) return this.#after('timeout', left, () => this.#expire())
      if (this.#heard < call.sent) return this.#abandon(`the server was silent for ${timeout} ms`)
      call.expired = true // and stays: an ack without an id goes to the oldest, which this one still is
      call.fail(failure(call, 'timeout', `no answer within ${timeout} ms`, { retryable: true }))
    }
  }

  #refuses(call) {
    const valid = typeof call.topic === 'string' && call.topic !== '' // the rest of the grammar is the server's
    if (this.#state === 'closed') this.#fail(call, failure(call, 'closed', 'the client is closed'))
    else if (!valid) this.#fail(call, failure(call, 'invalid_topic', 'a topic is a string, and not empty'))
    return this.#state === 'closed' || !valid
  }

  #fail(call, error) {
    call.reject(error)
    this.#emit('error', error)
  }

  // Frames

  #receive(data) {
    this.#heard = performance.now()
    let frame
    try {
      frame = JSON.parse(typeof data === 'string' ? data : utf8.decode(data))
      check(frame)
    } catch (cause) {
      return this.#emit('error', new PSError('invalid_frame', cause.message, { cause }))
    }
    if (frame.type === 'publish') {
      this.#emit('message', frame)
      const subscription = this.#topics.get(frame.context ?? frame.topic)
      for (const handler of [...(subscription?.handlers.keys() ?? [])]) guard(handler, frame)
    } else if (frame.type === 'ack') {
      this.#emit('ack', frame)
      this.#take(frame)?.done(frame)
    } else if (frame.type === 'error') {
      const call = this.#take(frame)
      const error = failure({ ...call, ...frame }, frame.code, frame.reason, { retryable: frame.retryable })
      if (call) return call.fail(error)
      this.#farewell = frame.reason // the server explains itself before it closes
      this.#emit('error', error)
    } // others are of a later protocol, and not for us
  }

  /** The call that an ack or an error answers. dwsps 1.0.1 echoes no id, but answers in order. */
  #take({ id, action, topic }) {
    if (id == null) {
      for (const [key, call] of this.#calls) {
        if (call.action === action && call.topic === topic) {
          id = key
          break
        }
      }
    }
    const call = this.#calls.get(id)
    this.#calls.delete(id)
    return call?.expired ? undefined : call
  }

  // Listeners, handlers, timers

  #listen(event, listener, once) {
    if (typeof listener !== 'function') throw new TypeError('a listener is a function')
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), { listener, once }])
    return this
  }

  #emit(event, value) {
    for (const entry of this.#listeners.get(event) ?? []) {
      if (entry.once) this.#listeners.set(event, this.#listeners.get(event).filter((other) => other !== entry))
      const outer = this.#opening
      this.#opening = event === 'open' ? { listener: entry.listener } : null
      guard(entry.listener, value)
      this.#opening = outer
    }
  }

  /**
   * Users of dwsps subscribe in an 'open' listener, which here runs on every reconnection, often with a new function.
   * So what such a listener attaches replaces what the same listener attached when it ran before.
   */
  #attach(handlers, handler) {
    for (const [old, opening] of handlers) {
      if (opening && opening.listener === this.#opening?.listener && opening !== this.#opening) handlers.delete(old)
    }
    handlers.set(handler, this.#opening)
  }

  #after(name, delay, act) {
    clearTimeout(this.#timers[name])
    this.#timers[name] = setTimeout(() => {
      delete this.#timers[name]
      act()
    }, Math.min(delay, 2 ** 31 - 1)) // above that, it would be at once
  }

  #stop(...names) {
    for (const name of names) {
      clearTimeout(this.#timers[name])
      delete this.#timers[name]
    }
  }
}

export default PSClient

const IGNORE = { done() {}, fail() {}, lost() {} }

/** A call, with the promise that its caller holds. */
function deferred(action, topic) {
  const call = { action, topic }
  call.promise = new Promise((resolve, reject) => Object.assign(call, { resolve, reject }))
  call.promise.catch(() => {}) // Node ends a process for a rejection nobody handles, and users of dwsps handle none
  return call
}

function failure({ action, topic }, code, reason, details) {
  return new PSError(code, reason, { ...details, action, topic })
}

function cancel(call) {
  call.reject(failure(call, 'cancelled', 'unsubscribed before the server had answered'))
}

function encode(message) {
  const text = JSON.stringify(message)
  if (text === undefined) throw new TypeError(`${typeof message} is not a JSON value`)
  return text
}

/** What is relied on below must be there; the rest is the server's word. */
function check(frame) {
  const field = { publish: 'topic', ack: 'action', error: 'code' }[frame?.type] ?? 'type'
  if (typeof frame?.[field] !== 'string') throw new TypeError(`no ${field}`)
}

/** Run the user's code. What it throws, or rejects with later, is reported and goes no further. */
function guard(run, value) {
  try {
    run(value)?.then?.(undefined, report)
  } catch (error) {
    report(error)
  }
}

function report(error) {
  if (typeof globalThis.reportError === 'function') globalThis.reportError(error)
  else console.error(error)
}
