/**
 * The JavaScript client of a dwsps server: an ES module for browsers, bundlers and Node.
 * docs/reference/javascript.md is the manual, docs/reference/protocol.md describes the frames.
 *
 * The folder of its parts has the version in its name, so that a cache cannot mix the parts of two versions. A browser
 * fetches them all in one round trip, as all of them are named here. Django's hashed static files may rewrite these
 * lines, for which it needs their semicolons.
 */
import { LONGEST_CURSOR } from './client-0.1.0/address.js';
import { Authentication } from './client-0.1.0/authentication.js';
import './client-0.1.0/backoff.js';
import { Call, IGNORE, localAck, Requests } from './client-0.1.0/calls.js';
import { Connection } from './client-0.1.0/connection.js';
import './client-0.1.0/credentials.js';
import './client-0.1.0/cursor.js';
import { PSError } from './client-0.1.0/errors.js';
import { decode, encodeMessage, isAboutConnection } from './client-0.1.0/frames.js';
import { PublishKeys } from './client-0.1.0/keys.js';
import { Listeners } from './client-0.1.0/listeners.js';
import { Pacer } from './client-0.1.0/pacer.js';
import './client-0.1.0/resume.js';
import './client-0.1.0/subscription.js';
import { Subscriptions } from './client-0.1.0/subscriptions.js';
import './client-0.1.0/timer.js';

/** Options and their defaults; times in milliseconds. */
const DEFAULTS = {
  timeout: 10_000, // how long the server may take to accept a connection or to answer a request
  keepAlive: 25_000, // how long the server may be silent before the client sends a request to test it; 0: forever
  queueSize: 1000, // how many publishes may wait
  minDelay: 500, // ceiling of the first delay before reconnecting
  maxDelay: 20_000, // ceiling of the last one
}

/** Nobody subscribes to it. Unsubscribing from it takes no right, changes nothing, and every server answers it. */
const KEEP_ALIVE_TOPIC = 'keep-alive'

/** Servers remember the key of a publish for five minutes. A little of it may pass on the way. */
const KEY_LIFETIME = 4.5 * 60_000

export class PSClient {
  #options
  #state = 'connecting'
  #opens = 0 // how many 'open' events there were
  #isNew = true // until the listeners of the first have run; what they subscribe to starts from the page's cursor
  #queue = [] // publish calls that wait for a connection, or behind others that wait
  #unsettled = [] // publish calls that a lost connection has left without an answer, until all are known
  #keys = new PublishKeys()
  #authentication
  #hasLog = false // the server gave a cursor or an offset, so it knows keys
  #listeners = new Listeners()
  #connection
  #requests
  #pacer
  #subscriptions

  /**
   * Connect at once. Listeners added in the same turn miss nothing.
   * @param {string | URL | function} url  ws(s), http(s), or relative to the page; or a function that returns one, or a
   *   promise of one, for each connection
   * @param {object} [options]  `WebSocket`, `token`, `dwsps1`, and those of DEFAULTS
   * @throws {TypeError} there is no WebSocket, an option is bad, or the URL cannot be resolved
   */
  constructor(url, { WebSocket = globalThis.WebSocket, token = '', dwsps1 = false, ...given } = {}) {
    if (typeof WebSocket !== 'function') throw new TypeError('no WebSocket here, pass one: { WebSocket }')
    checkCredential('token', token)
    const options = (this.#options = { dwsps1, token })
    for (const [name, standard] of Object.entries(DEFAULTS)) {
      options[name] = given[name] ?? standard
      if (!(options[name] >= 0)) throw new TypeError(`${name} is a number, and not negative`)
    }
    const onWork = () => this.#pump()
    const listeners = this.#listeners
    const connection = (this.#connection = new Connection(url, WebSocket, options, {
      opened: (token) => this.#authentication.send(token),
      received: (data) => this.#receive(data),
      silent: () => this.#probe(),
      lost: (event) => this.#lost(event),
      ended: (code, reason) => this.#ended(code, reason),
    }))
    const requests = (this.#requests = new Requests(connection, options.timeout))
    const pacer = (this.#pacer = new Pacer(options, onWork))
    const onRestored = () => this.#opened()
    const parts = { connection, requests, pacer, listeners, options, onWork, onRestored }
    this.#subscriptions = new Subscriptions(parts)
    const onAuthenticated = () => connection.isReady || this.#restore()
    this.#authentication = new Authentication({ ...parts, onAuthenticated })
    connection.open()
  }

  /** The address of the connection, resolved; empty before a function has returned the first. */
  get url() {
    return this.#connection.url
  }

  /** 'connecting' | 'open' | 'reconnecting' | 'closed' */
  get state() {
    return this.#state
  }

  /** The topics subscribed to, including those that wait for a connection or an ack. */
  get subscriptions() {
    return this.#subscriptions.topics
  }

  /** How far the subscriptions have been handed the server's log; empty if it has none, or has not said yet. */
  get cursor() {
    return this.#subscriptions.cursor
  }

  on(event, listener) {
    this.#listeners.add(event, listener)
    return this
  }

  once(event, listener) {
    this.#listeners.add(event, listener, true)
    return this
  }

  off(event, listener) {
    this.#listeners.remove(event, listener)
    return this
  }

  /**
   * Subscribe to a topic and its sub-topics, across reconnections, until `unsubscribe`.
   * @param {object} [options]  `since`, a cursor, or `last`, a number: which earlier messages come first;
   *   `grant`, what allows it, or a function that returns it or a promise of it; `onReset`, called if messages may be
   *   missing; `onUnsubscribed`, called if the server ends the subscription
   * @returns a promise of the ack, which is a handle as well: its `unsubscribe()` takes back this call alone. If it
   *   rejects, the handler is not attached.
   * @throws {TypeError} the handler or an option is bad
   */
  subscribe(topic, handler, { since, last, grant, onReset, onUnsubscribed } = {}) {
    checkFunction('a handler', handler)
    checkFunction('onReset', onReset)
    checkFunction('onUnsubscribed', onUnsubscribed)
    checkCredential('grant', grant)
    checkStart(since, last)
    const call = new Call('subscribe', topic, this.#listeners)
    const unsubscribe = () => {
      return this.#subscriptions.withdraw(call) ? this.unsubscribe(topic) : Promise.resolve(localAck(topic))
    }
    Object.assign(call.promise, { topic, unsubscribe })
    if (this.#refuses(call)) return call.promise
    const { resolve } = call // an awaited handle still has `unsubscribe`
    call.resolve = (ack) => resolve({ ...ack, unsubscribe })
    Object.assign(call, { handler, grant, onReset, onUnsubscribed, since: since ?? '', last: last ?? undefined })
    call.opening = this.#listeners.opening
    call.isEarly = this.#isNew && (!this.#connection.isReady || this.#connection.pageCursor !== '')
    this.#subscriptions.add(call)
    return call.promise
  }

  /**
   * Drop a subscription with all its handlers, whoever attached them. Subscriptions to its sub-topics stay.
   * @returns {Promise<object>} the ack; without a connection there is nothing to undo, and the client makes the ack
   */
  unsubscribe(topic) {
    const call = new Call('unsubscribe', topic, this.#listeners)
    if (!this.#refuses(call)) this.#subscriptions.drop(call)
    return call.promise
  }

  /**
   * Publish a JSON value as it is at this moment. Without a connection, or behind others that wait, it waits.
   * @returns {Promise<object>} the ack: the server has accepted it
   */
  publish(topic, message) {
    const call = new Call('publish', topic, this.#listeners)
    if (this.#refuses(call)) return call.promise
    try {
      // The time of the call, however long it waits.
      const key = this.#keys.next()
      call.fields = `,"timestamp":"${new Date().toISOString()}","key":"${key}","message":${encodeMessage(message)}`
    } catch (cause) {
      call.fail(call.error('invalid_message', cause.message, { cause }))
      return call.promise
    }
    const { queueSize } = this.#options
    const isFirst = !this.#subscriptions.isWaiting && !this.#queue.length
    if (this.#connection.isReady && isFirst) this.#send(call)
    else if (this.#queue.length < queueSize) this.#queue.push(call)
    else call.fail(call.error('queue_full', `${queueSize} publishes wait already`, { retryable: true }))
    return call.promise
  }

  /** Close for good. Calls without an answer reject with `closed`. */
  close() {
    if (this.#state === 'closed') return
    this.#connection.close()
    this.#finish(1000, '', (call) => call.reject(call.error('closed', 'the client was closed')))
  }

  // Calls

  #refuses(call) {
    // The server checks the rest of the grammar. It cannot read a topic with a lone surrogate, hence cannot name it.
    const { topic } = call
    let problem = null
    if (this.#state === 'closed') problem = ['closed', 'the client is closed']
    else if (typeof topic !== 'string' || !topic) problem = ['invalid_topic', 'a topic is a string, and not empty']
    else if (/\p{Cs}/u.test(topic)) problem = ['invalid_topic', 'the topic has half of a surrogate pair']
    if (problem) call.fail(call.error(...problem))
    return problem !== null
  }

  /** Send what waits, subscriptions first, as far as the pacer allows. */
  #pump() {
    while (this.#connection.isReady && this.#pacer.hasRoom) {
      if (this.#subscriptions.sendNext()) continue
      const call = this.#queue.shift()
      if (!call) return
      if (call.sentAt && !this.#mayResend(call)) failLost(call)
      else this.#send(call, (outcome) => this.#pacer.pace(outcome))
    }
  }

  #send(call, pace = (outcome) => outcome) {
    const fail = (error) => call.fail(error)
    call.sentAt ??= Date.now() // which goes on while the machine sleeps
    const lost = (reason) => {
      call.lostWith = reason
      if (this.#mayResend(call)) this.#unsettled.push(call)
      else failLost(call)
    }
    this.#requests.send(call, [call], pace({ done: call.resolve, fail, lost }))
  }

  /** Whether the server, if it has had a publish already, would recognize it by its key. */
  #mayResend({ sentAt }) {
    const age = Date.now() - sentAt
    return this.#hasLog && age >= 0 && age < KEY_LIFETIME
  }

  // The connection

  /** Subscribe again on a new connection, then send what waits. */
  #restore() {
    this.#connection.begin()
    this.#pacer.reset()
    const count = this.#subscriptions.restore()
    this.#pump()
    if (!count) this.#opened()
  }

  #opened() {
    if (!this.#connection.isReady) return // a listener has closed the client meanwhile
    this.#state = 'open'
    this.#listeners.emit('open', { reconnected: this.#opens++ > 0 })
    this.#isNew = false
  }

  /** Request something harmless, so that a dead connection shows by its silence. */
  #probe() {
    let topic = KEEP_ALIVE_TOPIC
    while (this.#subscriptions.has(topic)) topic += '-'
    this.#requests.send({ action: 'unsubscribe', topic }, [], { ...IGNORE, isHidden: true })
  }

  #lost({ code, reason, attempt, delay }) {
    const wasOpen = this.#state === 'open'
    const requests = this.#requests.clear()
    this.#pacer.stop()
    this.#authentication.stop()
    this.#subscriptions.disconnect()
    this.#state = 'reconnecting'
    const why = code === 1006 ? reason : `${code} ${reason}`.trimEnd()
    for (const request of requests) request.lost(why)
    this.#queue = [...this.#unsettled.splice(0), ...this.#queue]
    // A listener may close the client at each step.
    if (wasOpen && this.#state !== 'closed') this.#listeners.emit('close', { code, reason, willReconnect: true })
    if (this.#state !== 'closed') this.#listeners.emit('reconnecting', { attempt, delay, code, reason })
  }

  #ended(code, reason) {
    const why = `the server closed the connection for good: ${code} ${reason}`.trimEnd()
    this.#finish(code, reason, (call) => call.fail(call.error('closed', why)))
  }

  #finish(code, reason, reject) {
    const sent = this.#requests.clear().flatMap(({ calls }) => calls)
    const unanswered = [...sent, ...this.#subscriptions.clear(), ...this.#queue.splice(0)]
    this.#pacer.stop()
    this.#authentication.stop()
    this.#state = 'closed'
    unanswered.forEach(reject)
    this.#listeners.emit('close', { code, reason, willReconnect: false })
  }

  // Frames

  #receive(data) {
    let text, frame
    try {
      ;({ text, frame } = decode(data))
    } catch (cause) {
      return this.#listeners.emit('error', new PSError('invalid_frame', cause.message, { cause }))
    }
    const event = this.#options.dwsps1 ? text : frame
    if (frame.type === 'publish') this.#subscriptions.deliver(frame, event)
    else if (frame.type === 'ack') this.#acknowledge(frame, event)
    else if (frame.type === 'error') this.#complain(frame)
    else if (frame.type === 'reset') this.#subscriptions.restart(frame.cursor)
    else if (frame.type === 'unsubscribed') this.#subscriptions.end(frame)
    else if (frame.type === 'expiring') this.#authentication.expire(frame.expiresIn)
    // Other types belong to a later protocol.
  }

  #acknowledge(frame, event) {
    const { action, cursor, offset } = frame
    const request = this.#requests.take(frame)
    if (action !== 'authenticate') this.#hasLog = cursor !== undefined || offset !== undefined
    // A resume says more than a cursor, and is answered first. A publish says nothing of what was delivered.
    if (action === 'subscribe' || action === 'unsubscribe') this.#subscriptions.hear(cursor)
    if (!request?.isHidden) this.#listeners.emit('ack', event)
    if (!request?.hasExpired) request?.done(frame)
  }

  #complain(frame) {
    const request = this.#requests.take(frame)
    const { code, reason, action = request?.action, topic = request?.topic, retryable } = frame
    const error = new PSError(code, reason, { retryable: retryable === true, action, topic })
    if (isAboutConnection(frame)) {
      this.#connection.explain(reason)
      if (frame.cursor) this.#subscriptions.hear(frame.cursor) // the server is going away, and has sent all before it
    }
    if (!request) this.#listeners.emit('error', error)
    else if (!request.hasExpired) request.fail(error)
  }
}

function checkFunction(name, value) {
  if (value != null && typeof value !== 'function') throw new TypeError(`${name} is a function`)
}

function checkCredential(name, value) {
  if (value != null && !['string', 'function'].includes(typeof value)) throw new TypeError(`${name} is a string or a function`)
}

function checkStart(since, last) {
  const isCursor = since == null || (typeof since === 'string' && since.length <= LONGEST_CURSOR)
  if (!isCursor) throw new TypeError('since is a cursor, a string')
  if (last != null && !(Number.isSafeInteger(last) && last >= 0)) throw new TypeError('last is how many, 0 or more')
  if (since && last != null) throw new TypeError('a subscription starts with since or with last, not with both')
}

/** Fail a publish that may have arrived, or not. */
function failLost(call) {
  const reason = ['the connection broke before the ack', call.lostWith].filter(Boolean).join(': ')
  call.fail(call.error('connection_lost', reason, { retryable: true }))
}

export { PSError };
export default PSClient
