/**
 * The JavaScript client of a dwsps server: an ES module for browsers, and for Node with a WebSocket passed in.
 * docs/reference/javascript.md is the manual, docs/reference/protocol.md says what is on the wire.
 */

/** Options and their defaults; times in milliseconds. */
const DEFAULTS = {
  timeout: 10_000, // how long the server may take to accept a connection or to answer a call
  keepAlive: 25_000, // how long the server may be silent before the client asks whether it is there; 0: for ever
  queueSize: 1000, // how many publishes may wait for a connection
  minDelay: 500, // ceiling of the first delay before reconnecting
  maxDelay: 20_000, // ceiling of the last one
}

/** A connection that held for so long (ms) was a good one: after it, delays start again at `minDelay`. */
const STABLE_AFTER = 10_000

// How many subscriptions, and publishes that waited, are on their way at once. The window grows with each ack, and is
// 1 again where the server says `rate_limited`. So fewer are refused in a row than a rate limit allows in one burst: a
// client that goes on beyond its limit is closed.
const FIRST_WINDOW = 16
const LARGEST_WINDOW = 128

// The ranges of close codes by which the server says what to do (docs/reference/protocol.md). After any other: backoff.
const staysAway = (code) => code >= 4000 && code <= 4099
const returnsAtOnce = (code) => code >= 4200 && code <= 4299

/** An error of these codes that names no request is about the connection, which the server is about to close. */
const FAREWELLS = new Set(['unavailable', 'forbidden', 'rate_limited'])

/** Nobody subscribes to it: to unsubscribe from it takes no right, changes nothing, and is answered by every server. */
const KEEP_ALIVE_TOPIC = 'keep-alive'

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
  #locate = null // gives the URL for each connection, where it is not the same for all
  #url = ''
  #WebSocket
  #dwsps1
  #options = {}
  #state = 'connecting'
  #trial = null // the current attempt to connect, then the connection; what an older one still brings is ignored
  #socket = null // its socket
  #ready = false // the socket takes frames; 'open' may not have been told yet
  #opens = 0 // how often 'open' was told
  #attempt = 0 // reconnections since the last stable connection
  #hurried = false // whether one of them was at once
  #refusals = 0 // how often the server put off subscriptions from before, on this connection
  #farewell = '' // why this connection ends, as far as known, where the close itself gives no reason
  #heard = 0 // when the last frame came
  #lastId = 0
  #calls = new Map() // id -> call sent and not answered, in order of sending, hence of deadline
  #queue = [] // publishes that wait for a connection, or for what waits before them
  #topics = new Map() // topic -> subscription: what the user wants, whether or not the server knows
  #unasked = new Set() // subscriptions that the server is to be asked for
  #unsaid = [] // unsubscribes that it is to be told of
  #restoring = new Set() // subscriptions that do not stand yet, and did before: 'open' waits for them
  #window = FIRST_WINDOW
  #steep = true // it grows by half in each round trip, until the server first refuses; then by one
  #paced = 0 // frames on their way that count against the window
  #pauses = 0 // how often the server said `rate_limited` without an ack in between
  #listeners = new Map() // event -> [{ listener, once }]; an array is replaced, never changed
  #opening = null // stands for the 'open' listener that is running
  #timers = {}

  /**
   * Connects at once. Listeners added in the same turn miss nothing.
   * @param {string | URL | function} url  ws(s), http(s), or relative to the page; or a function that gives one, or a
   *   promise of one, for each connection
   * @param {object} [options]  `WebSocket`, `dwsps1`, and what DEFAULTS lists
   * @throws {TypeError} without a WebSocket, for a bad option, or where the URL cannot be resolved
   */
  constructor(url, { WebSocket = globalThis.WebSocket, dwsps1 = false, ...options } = {}) {
    if (typeof WebSocket !== 'function') throw new TypeError('no WebSocket here, pass one: { WebSocket }')
    this.#WebSocket = WebSocket
    this.#dwsps1 = dwsps1
    for (const [name, standard] of Object.entries(DEFAULTS)) {
      const value = options[name] ?? standard
      if (!(value >= 0)) throw new TypeError(`${name} is a number, and not negative`)
      this.#options[name] = value
    }
    if (typeof url === 'function') this.#locate = url
    else this.#url = address(url)
    this.#connect()
    globalThis.addEventListener?.('online', this.#wake)
    globalThis.document?.addEventListener('visibilitychange', this.#wake)
  }

  /** The address connected to, resolved; empty before a function has given the first. */
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
   * @returns a promise of the ack which is a handle as well: its `unsubscribe()` takes back this call, and no other's.
   *   Where it rejects, the handler is not attached.
   */
  subscribe(topic, handler) {
    if (handler != null && typeof handler !== 'function') throw new TypeError('a handler is a function')
    const call = deferred('subscribe', topic)
    const unsubscribe = () => this.#withdraw(call)
    Object.assign(call.promise, { topic, unsubscribe })
    if (this.#refuses(call)) return call.promise
    const { resolve } = call // what is awaited has `unsubscribe`, too
    Object.assign(call, { handler, opening: this.#opening, resolve: (ack) => resolve({ ...ack, unsubscribe }) })
    let subscription = this.#topics.get(topic)
    if (!subscription) {
      // holders: handler or undefined -> the calls that brought it. waiting: calls for the next ask to answer.
      // asked: frames not answered. live: acknowledged on this connection. granted: acknowledged on any.
      subscription = { topic, holders: new Map(), waiting: [], asked: 0, live: false, granted: false }
      this.#topics.set(topic, subscription)
    }
    if (this.#dwsps1) replaceOlder(subscription, this.#opening)
    subscription.holders.set(handler, (subscription.holders.get(handler) ?? new Set()).add(call))
    subscription.waiting.push(call)
    this.#unasked.add(subscription)
    this.#pump()
    return call.promise
  }

  /**
   * Drop a subscription with all its handlers, whoever attached them. Subscriptions to its sub-topics stay.
   * @returns {Promise<object>} the ack; the client's own where there is no connection, hence nothing to undo
   */
  unsubscribe(topic) {
    const call = deferred('unsubscribe', topic)
    if (this.#refuses(call)) return call.promise
    const subscription = this.#topics.get(topic)
    subscription?.waiting.forEach(cancel)
    this.#topics.delete(topic)
    this.#unasked.delete(subscription)
    if (this.#ready) this.#unsaid.push(call)
    else call.resolve(ownAck(topic))
    this.#pump()
    this.#restored(subscription)
    return call.promise
  }

  /**
   * Publish a JSON value, as it is now. Without a connection it waits for one, as it does behind others that wait.
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
    const first = !this.#unsaid.length && !this.#unasked.size && !this.#queue.length
    if (this.#ready && first) this.#post(call)
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
    const trial = (this.#trial = {})
    this.#farewell = ''
    if (this.#locate) this.#locateAndDial(trial)
    else this.#dial(trial)
    this.#after('connect', this.#options.timeout, () => {
      this.#abandon(this.#socket ? 'the server did not accept the connection' : 'the function gave no URL in time')
    })
  }

  async #locateAndDial(trial) {
    await null // what fails at once is told to listeners that are added in this turn
    try {
      const url = await this.#locate.call(null)
      if (this.#trial !== trial) return
      this.#url = address(url)
      this.#dial(trial)
    } catch (error) {
      if (this.#trial === trial) this.#lost(1006, `no connection: ${error?.message ?? error}`)
    }
  }

  #dial(trial) {
    const socket = new this.#WebSocket(this.#url)
    const current = (handle) => (event) => {
      if (this.#trial === trial) handle(event)
    }
    this.#socket = socket
    socket.binaryType = 'arraybuffer'
    socket.onopen = current(() => this.#restore())
    socket.onmessage = current((event) => this.#receive(event.data))
    socket.onerror = current((event) => (this.#farewell ||= event.message ?? '')) // ws says why, browsers do not
    socket.onclose = current((event) => this.#lost(event.code, event.reason))
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
    if (this.#state === 'reconnecting' && !this.#trial) this.#reconnect()
    else if (this.#ready && this.#options.keepAlive) this.#probe() // the machine may have slept
  }

  /** The socket is open: subscribe again, then send what waits. */
  #restore() {
    this.#ready = true
    this.#refusals = this.#pauses = this.#paced = 0
    this.#window = Math.min(this.#window, FIRST_WINDOW)
    this.#heard = performance.now()
    this.#stop('connect')
    this.#after('stable', STABLE_AFTER, () => {
      this.#attempt = 0
      this.#hurried = false
    })
    this.#watch()
    this.#restoring = new Set(this.#topics.values())
    this.#unasked = new Set(this.#restoring)
    const nothing = !this.#restoring.size
    this.#pump()
    if (nothing) this.#opened()
  }

  /** A subscription from before stands, or is gone for good. After the last of them 'open' is told. */
  #restored(subscription) {
    if (this.#restoring.delete(subscription) && !this.#restoring.size) this.#opened()
  }

  #opened() {
    if (!this.#ready) return // a listener closed the client meanwhile
    this.#state = 'open'
    this.#emit('open', { reconnected: this.#opens++ > 0 })
  }

  /** Ask a server that has said nothing for long whether it is there: browsers show no pings. */
  #watch() {
    const { keepAlive } = this.#options
    if (!keepAlive) return
    const left = this.#heard + keepAlive - performance.now()
    if (left <= 0) this.#probe()
    this.#after('keepAlive', left > 0 ? left : keepAlive, () => this.#watch())
  }

  #probe() {
    let topic = KEEP_ALIVE_TOPIC
    while (this.#topics.has(topic)) topic += '-'
    this.#send({ action: 'unsubscribe', topic }, [], { ...IGNORE, quiet: true })
  }

  /** Give up a silent socket without waiting for its closing handshake, which may take minutes. */
  #abandon(reason) {
    const socket = this.#socket
    this.#lost(1006, reason)
    socket?.close()
  }

  /** Forget the connection, and return what was sent on it and not answered. */
  #release() {
    const calls = [...this.#calls.values()].filter((call) => !call.expired)
    this.#stop(...Object.keys(this.#timers))
    this.#calls.clear()
    this.#restoring.clear()
    this.#unasked.clear()
    this.#trial = this.#socket = null
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
    const why = code === 1006 ? reason : `${code} ${reason}`.trimEnd()
    for (const call of calls) call.lost(why)
    for (const call of this.#unsaid.splice(0)) call.resolve(ownAck(call.topic))
    if (wasOpen && this.#state !== 'closed') this.#emit('close', { code, reason, willReconnect: true })
    if (this.#state !== 'closed') this.#emit('reconnecting', { attempt, delay, code, reason })
  }

  #finish(code, reason, reject) {
    const sent = this.#release().flatMap((call) => call.users)
    const waiting = [...this.#topics.values()].flatMap((subscription) => subscription.waiting)
    const unanswered = [...sent, ...waiting, ...this.#unsaid, ...this.#queue]
    this.#state = 'closed'
    this.#topics.clear()
    this.#unsaid = []
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

  /** Send what waits: subscriptions first, and no more at once than the server takes. */
  #pump() {
    while (this.#ready && !this.#timers.pause && this.#paced < Math.floor(this.#window)) {
      const [subscription] = this.#unasked
      if (this.#unsaid.length) this.#leave(this.#unsaid.shift())
      else if (subscription) {
        this.#unasked.delete(subscription)
        this.#ask(subscription, subscription.waiting.splice(0))
      } else if (this.#queue.length) {
        this.#post(this.#queue.shift(), (outcome) => this.#pace(outcome))
      } else return
    }
  }

  /** Count a frame against the window until it is answered. */
  #pace({ done, fail, lost }) {
    this.#paced++
    return {
      done: (ack) => {
        this.#paced--
        this.#pauses = 0
        this.#window = Math.min(LARGEST_WINDOW, this.#window + (this.#steep ? 0.5 : 1 / this.#window))
        done(ack)
        this.#pump()
      },
      fail: (error) => {
        this.#paced--
        if (error.code === 'rate_limited' && !this.#timers.pause) this.#pause()
        fail(error)
        this.#pump()
      },
      lost,
    }
  }

  #pause() {
    const { minDelay, maxDelay } = this.#options
    const delay = Math.min(maxDelay, minDelay * 2 ** this.#pauses++)
    this.#steep = false
    this.#window = 1
    this.#after('pause', delay * (1 + Math.random()) / 2, () => this.#pump())
  }

  #post(call, pace = (outcome) => outcome) {
    const fail = (error) => this.#fail(call, error)
    const lost = (reason) => {
      const unknown = ['the connection broke before the ack', reason].filter(Boolean).join(': ')
      fail(failure(call, 'connection_lost', unknown, { retryable: true }))
    }
    this.#send(call, [call], pace({ done: call.resolve, fail, lost }))
  }

  /** Ask the server for a subscription, on behalf of the calls that wait for its answer (none: subscribing again). */
  #ask(subscription, users) {
    const { topic } = subscription
    const isWanted = () => this.#topics.get(topic) === subscription
    subscription.asked++
    this.#send({ action: 'subscribe', topic }, users, this.#pace({
      done: (ack) => {
        subscription.asked--
        subscription.live = subscription.granted = true
        for (const call of users) call.resolve(ack)
        this.#restored(subscription)
      },
      fail: (error) => {
        subscription.asked--
        if (error.code === 'rate_limited' && isWanted()) {
          subscription.waiting.unshift(...users)
          this.#unasked.add(subscription)
          this.#emit('error', error)
        } else this.#refused(subscription, users, error)
      },
      lost: () => {
        if (isWanted()) subscription.waiting.push(...users)
        else users.forEach(cancel)
      },
    }))
  }

  /** Tell the server of an unsubscribe, unless the topic is wanted again. */
  #leave(call) {
    const { topic } = call
    if (this.#topics.has(topic)) return call.resolve(ownAck(topic))
    this.#send(call, [call], this.#pace({
      done: call.resolve,
      fail: (error) => {
        if (error.code !== 'rate_limited') return this.#fail(call, error)
        this.#unsaid.push(call)
        this.#emit('error', error)
      },
      lost: () => call.resolve(ownAck(topic)),
    }))
  }

  #refused(subscription, users, error) {
    const { topic } = subscription
    for (const call of users) {
      detach(subscription, call)
      call.reject(error)
    }
    const { holders, live, asked, waiting } = subscription
    const superseded = this.#topics.get(topic) !== subscription || live || asked > 0 || waiting.length > 0
    if (!superseded && holders.size && subscription.granted && error.retryable) {
      if (!this.#timers.again) this.#after('again', this.#jitter(this.#refusals++), () => this.#askAgain())
    } else if (!superseded) {
      this.#topics.delete(topic)
      // The server may still come round to it: it must not deliver what nobody knows of.
      if (error.code === 'timeout') this.#send({ action: 'unsubscribe', topic }, [], IGNORE)
    }
    this.#emit('error', error)
    if (this.#topics.get(topic) !== subscription) this.#restored(subscription)
  }

  #askAgain() {
    for (const subscription of this.#topics.values()) {
      if (!subscription.live && !subscription.asked) this.#unasked.add(subscription)
    }
    this.#pump()
  }

  /** What a handle's `unsubscribe` does: take one call back, and tell the server if it was the topic's last. */
  #withdraw(call) {
    const subscription = this.#topics.get(call.topic)
    if (!subscription || !detach(subscription, call)) return Promise.resolve(ownAck(call.topic))
    if (!subscription.holders.size) return this.unsubscribe(call.topic)
    const position = subscription.waiting.indexOf(call)
    if (position >= 0) subscription.waiting.splice(position, 1).forEach(cancel)
    return Promise.resolve(ownAck(call.topic))
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
    // The rest of the grammar is the server's. It cannot read a topic with a lone surrogate, hence name it.
    const { topic } = call
    let problem = null
    if (this.#state === 'closed') problem = ['closed', 'the client is closed']
    else if (typeof topic !== 'string' || !topic) problem = ['invalid_topic', 'a topic is a string, and not empty']
    else if (/\p{Cs}/u.test(topic)) problem = ['invalid_topic', 'the topic has half of a surrogate pair']
    if (problem) this.#fail(call, failure(call, ...problem))
    return problem !== null
  }

  #fail(call, error) {
    call.reject(error)
    this.#emit('error', error)
  }

  // Frames

  #receive(data) {
    this.#heard = performance.now()
    let text, frame
    try {
      text = typeof data === 'string' ? data : utf8.decode(data)
      frame = JSON.parse(text)
      check(frame)
    } catch (cause) {
      return this.#emit('error', new PSError('invalid_frame', cause.message, { cause }))
    }
    const told = this.#dwsps1 ? text : frame
    if (frame.type === 'publish') {
      this.#emit('message', told)
      const subscription = this.#topics.get(frame.context ?? frame.topic)
      for (const handler of [...(subscription?.holders.keys() ?? [])]) if (handler) guard(handler, told)
    } else if (frame.type === 'ack') {
      const call = this.#take(frame)
      if (!call?.quiet) this.#emit('ack', told)
      if (!call?.expired) call?.done(frame)
    } else if (frame.type === 'error') {
      const call = this.#take(frame)
      const { code, reason, action = call?.action, topic = call?.topic, retryable } = frame
      const error = failure({ action, topic }, code, reason, { retryable: retryable === true })
      if (isNameless(frame) && FAREWELLS.has(code)) this.#farewell = reason // the server explains itself, and closes
      if (!call) this.#emit('error', error)
      else if (!call.expired) call.fail(error)
    } // others are of a later protocol, and not for us
  }

  /**
   * The call that an ack or an error answers. dwsps 1.0.1 echoes no id, but answers in order; a server that cannot
   * read a frame may find no id in it.
   */
  #take(frame) {
    let { id } = frame
    if (id == null) {
      const isOf = (given, own) => given === own || (frame.type === 'error' && given === undefined)
      const matches = ([, call]) => isOf(frame.action, call.action) && isOf(frame.topic, call.topic)
      const isFarewell = isNameless(frame) && FAREWELLS.has(frame.code)
      id = isFarewell ? undefined : find(this.#calls, matches)?.[0]
    }
    const call = this.#calls.get(id)
    this.#calls.delete(id)
    return call
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

/** The address of a websocket, from what the user gave. */
function address(url) {
  const page = globalThis.location?.href
  let resolved
  try {
    if (url == null) throw new TypeError('it is missing') // else it would be "undefined", below the page
    resolved = new URL(url, page)
  } catch (cause) {
    const lacking = page ? '' : ': without a page to resolve it against, it begins with ws:// or wss://'
    throw new TypeError(`'${url}' is no URL of a websocket${lacking}`, { cause })
  }
  resolved.protocol = resolved.protocol.replace(/^http/, 'ws')
  resolved.hash = '' // a WebSocket refuses one
  if (!/^wss?:$/.test(resolved.protocol)) throw new TypeError(`'${resolved.href}' does not begin with ws:// or wss://`)
  return resolved.href
}

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

/** The ack of an `unsubscribe` that the server need not hear of. */
function ownAck(topic) {
  return { type: 'ack', action: 'unsubscribe', timestamp: new Date().toISOString(), topic }
}

/** Let go of what a call holds of a subscription; false: it held nothing. */
function detach({ holders }, call) {
  const calls = holders.get(call.handler)
  const held = calls?.delete(call) ?? false
  if (calls?.size === 0) holders.delete(call.handler)
  return held
}

/**
 * Programs for dwsps 1.0.1 subscribe in an 'open' listener, which here runs on every reconnection, often with a new
 * function. So what such a listener attaches replaces what the same listener attached when it ran before.
 */
function replaceOlder(subscription, opening) {
  const calls = [...subscription.holders.values()].flatMap((calls) => [...calls])
  for (const call of calls) {
    if (call.opening && call.opening.listener === opening?.listener && call.opening !== opening) {
      detach(subscription, call)
    }
  }
}

function cancel(call) {
  call.reject(failure(call, 'cancelled', 'unsubscribed before the server had answered'))
}

function encode(message) {
  const text = JSON.stringify(message)
  if (text === undefined) throw new TypeError(`${typeof message} is not a JSON value`)
  return text
}

/** What is relied on: of each type of frame the string that must be there, and those that may. */
const STRINGS = new Map([
  ['publish', ['topic', 'context']],
  ['ack', ['action', 'topic']],
  ['error', ['code', 'reason', 'action', 'topic']],
])

/** Take no frame for what it is not: the server may be anybody. */
function check(frame) {
  const [required, ...optional] = STRINGS.get(frame?.type) ?? ['type']
  if (typeof frame?.[required] !== 'string') throw new TypeError(`no ${required}`)
  for (const name of optional) {
    if (frame[name] !== undefined && typeof frame[name] !== 'string') throw new TypeError(`${name} is not a string`)
  }
}

/** Whether an answer says nothing of what it answers. */
function isNameless({ id, action, topic }) {
  return id == null && action === undefined && topic === undefined
}

function find(iterable, matches) {
  for (const item of iterable) if (matches(item)) return item
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
