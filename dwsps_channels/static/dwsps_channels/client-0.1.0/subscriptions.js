import { jitter } from './backoff.js';
import { IGNORE, localAck } from './calls.js';
import { obtain } from './credentials.js';
import { Position } from './cursor.js';
import { PSError } from './errors.js';
import { guard } from './listeners.js';
import { encodeGrant, encodeSince, encodeTopics, refusal, resultOf, takeTogether } from './resume.js';
import { Subscription } from './subscription.js';
import { Timer } from './timer.js';

/** The subscriptions of one client, across reconnections. */
export class Subscriptions {
  #parts
  #byTopic = new Map() // what the user wants, whether the server knows of it or not
  #unresumed = new Set() // subscriptions to resume, on a new connection
  #unasked = new Set() // subscriptions to ask the server for
  #leaving = [] // unsubscribe calls to send
  #restoring = new Set() // subscriptions from before the connection that are not live yet
  #refusals = 0 // how often, on this connection, the server put off subscriptions from before
  #retryTimer = new Timer()
  #cursor = new Position() // everything up to it was handed over, to each subscription that was ever granted
  #resumes = 0 // resumes without an answer
  #isOneByOne = false // the last resume stayed unanswered: the server may not know what one is, as dwsps 1.0.1
  #resetTopics = new Set() // that were reset, and the client's listeners have not been told

  /**
   * @param {object} parts  of the client: `connection`, `requests`, `pacer`, `listeners`, `options`; `onWork()` is
   *   called if `sendNext` has something to send, `onRestored()` after the last subscription from before is settled
   */
  constructor(parts) {
    this.#parts = parts
  }

  get topics() {
    return [...this.#byTopic.keys()]
  }

  /** How far the client has been handed the server's log; empty if the server has none, or has not said yet. */
  get cursor() {
    return this.#cursor.cursor
  }

  /** Whether `sendNext` has something to send. */
  get isWaiting() {
    return this.#leaving.length > 0 || this.#unresumed.size > 0 || this.#unasked.size > 0
  }

  has(topic) {
    return this.#byTopic.has(topic)
  }

  // What the user does

  /** Subscribe on behalf of a call, with `handler`, `opening`, and what `Subscription` and `#reset` read. */
  add(call) {
    let subscription = this.#byTopic.get(call.topic)
    if (!subscription) {
      subscription = new Subscription(call.topic)
      this.#byTopic.set(call.topic, subscription)
    }
    subscription.attach(call, this.#parts.options.dwsps1 && subscription.detachOlder(call.opening))
    if (!subscription.isResuming) this.#enqueue(subscription)
    this.#parts.onWork()
  }

  /** Drop all of a topic on behalf of an unsubscribe call. */
  drop(call) {
    const subscription = this.#byTopic.get(call.topic)
    for (const waiting of subscription?.waiting ?? []) waiting.cancel()
    this.#forget(call.topic)
    if (this.#parts.connection.isReady) this.#leaving.push(call)
    else call.resolve(localAck(call.topic))
    this.#parts.onWork()
    this.#settle(subscription)
  }

  /** Take one call back; return true if it was the last of its topic, which is then to be dropped. */
  withdraw(call) {
    const subscription = this.#byTopic.get(call.topic)
    if (!subscription?.detach(call)) return false
    if (!subscription.holders.size) return true
    const position = subscription.waiting.indexOf(call)
    if (position >= 0) subscription.waiting.splice(position, 1)[0].cancel()
    return false
  }

  // What the server says

  /** Note the cursor of an ack, undefined if it has none. While a resume is unanswered, it says too much. */
  hear(cursor) {
    if (!this.#resumes && !this.#unresumed.size) this.#cursor.set(cursor)
  }

  /** Hand over a delivery, unless its subscription has had it. */
  deliver({ topic, context = topic, offset }, event) {
    const position = Number.isSafeInteger(offset) ? offset : undefined
    if (!this.#resumes && !this.#unresumed.size) {
      // The copies of a message come deepest context first.
      this.#cursor.advance(position && this.#hasParent(context) ? position - 1 : position)
    }
    const subscription = this.#byTopic.get(context)
    const isNew = subscription?.position.advance(position) !== false
    if (subscription?.early.size) subscription.collect(position, event, isNew)
    if (!isNew) return
    this.#parts.listeners.emit('message', event)
    for (const handler of this.#byTopic.get(context)?.handlers ?? []) {
      // One that ran before may have taken this one back.
      if (handler && this.#byTopic.get(context)?.holders.has(handler)) guard(handler, event)
    }
  }

  /** Note that the server's log begins afresh on this connection, at a cursor. */
  restart(cursor) {
    this.#cursor.set(cursor)
    for (const subscription of this.#byTopic.values()) {
      // The answer to a resume decides what is missing. Its replay may begin before this cursor, in the same epoch.
      if (subscription.isResuming) subscription.position.enter(cursor)
      else subscription.position.raise(cursor)
      if (subscription.since) subscription.since = cursor
      subscription.forgetEarly()
      if (subscription.isResuming) subscription.isBroken = true
      else if (subscription.wasGranted && !subscription.isBroken) this.#reset(subscription)
    }
    this.#tellResets()
  }

  /** Note that the server has ended a subscription. Calls that it has not answered wait on: their answers decide. */
  end({ topic, code, reason }) {
    const subscription = this.#byTopic.get(topic)
    if (!subscription) return
    this.#end(subscription, code, reason)
    if (this.#byTopic.get(topic) !== subscription) this.#settle(subscription)
  }

  // Connections

  /** Mark all to be resumed, or asked for, on a new connection; return how many they are. */
  restore() {
    this.#refusals = 0
    this.#unresumed.clear()
    this.#unasked.clear()
    this.#restoring = new Set(this.#byTopic.values())
    for (const subscription of this.#restoring) {
      const { wasGranted, since } = subscription
      const cursor = since || this.#cursor.cursor
      subscription.isBroken ||= wasGranted && !cursor
      if (wasGranted) subscription.position.enter(cursor) // another server's log may have come in between
      this.#enqueue(subscription)
    }
    return this.#restoring.size
  }

  /** Note the loss of the connection, with which the server's subscriptions end. */
  disconnect() {
    this.#retryTimer.stop()
    this.#restoring.clear()
    this.#unresumed.clear()
    this.#unasked.clear()
    this.#resumes = 0
    for (const subscription of this.#byTopic.values()) {
      Object.assign(subscription, { isLive: false, isPutOff: false, isResuming: false, asked: 0 })
      Object.assign(subscription, { fetching: null, fetched: null })
    }
    for (const call of this.#leaving.splice(0)) call.resolve(localAck(call.topic))
  }

  /** Forget all, and return the calls that are not answered. */
  clear() {
    const waiting = [...this.#byTopic.values()].flatMap((subscription) => subscription.waiting)
    const calls = [...waiting, ...this.#leaving.splice(0)]
    this.#byTopic.clear()
    this.#resetTopics.clear()
    this.disconnect()
    return calls
  }

  // Requests

  /** Send the next request; return false if there was nothing to send. */
  sendNext() {
    if (this.#leaving.length) this.#leave(this.#leaving.shift())
    else if (this.#unresumed.size) this.#resume()
    else if (this.#unasked.size) this.#ask(this.#unasked.values().next().value)
    else return false
    return true
  }

  #enqueue(subscription) {
    if (subscription.fetchGrant) this.#fetchGrant(subscription)
    else this.#queueOf(subscription).add(subscription)
  }

  #queueOf({ isResumable }) {
    return isResumable ? this.#unresumed : this.#unasked
  }

  /** Ask the user's function for the grant of a subscription, then enqueue it. */
  async #fetchGrant(subscription) {
    const { connection, options, onWork } = this.#parts
    if (!connection.isReady || subscription.fetching) return
    const { topic } = subscription
    const fetching = (subscription.fetching = {})
    const { fetchGrant: source, isResumable } = subscription
    if (isResumable) subscription.since ||= this.#cursor.cursor // which others may move meanwhile
    let text, problem
    try {
      text = await obtain(source, 'grant', options.timeout)
    } catch (cause) {
      problem = new PSError('no_grant', String(cause?.message ?? cause), { retryable: true, action: 'subscribe', topic, cause })
    }
    if (subscription.fetching !== fetching || this.#byTopic.get(topic) !== subscription) return
    subscription.fetching = null
    if (problem) {
      // The server may have ended the subscription meanwhile.
      const { isToRestore, since } = subscription
      this.#refuse(subscription, isToRestore ? [] : subscription.takeWith(source), problem, since)
      if (this.#byTopic.get(topic) !== subscription || isToRestore) return
      if (subscription.waiting.length) this.#enqueue(subscription)
    } else {
      subscription.fetched = { source, text }
      this.#enqueue(subscription)
    }
    onWork()
  }

  /** Resume subscriptions from before the connection, as many as one request can name. */
  #resume() {
    const { requests, pacer, listeners, options } = this.#parts
    const all = this.#isOneByOne ? [...this.#unresumed].slice(0, 1) : this.#unresumed
    const { since, together } = takeTogether(all, ({ since }) => since || this.#cursor.cursor)
    const request = this.#isOneByOne
      ? { action: 'subscribe', topic: together[0].topic, fields: encodeSince(since) + encodeGrant(together[0]) }
      : { action: 'resume', fields: encodeSince(since) + encodeTopics(together) }
    const sentAt = performance.now()
    for (const subscription of together) {
      this.#unresumed.delete(subscription)
      subscription.isResuming = true
      subscription.fetched = null // the next request asks for another
      subscription.asked++
    }
    this.#resumes++
    const answered = () => {
      this.#resumes--
      for (const subscription of together) subscription.asked--
    }
    /** Go on with each that is still wanted: a listener may unsubscribe meanwhile. */
    const each = (act) => {
      for (const subscription of together) {
        subscription.isResuming = false
        if (this.#byTopic.get(subscription.topic) === subscription) act(subscription)
      }
    }
    const outcome = pacer.pace({
      done: (ack) => {
        answered()
        this.#isOneByOne &&= this.#unresumed.size > 0
        this.hear(ack.cursor)
        each((subscription) => this.#resumed(subscription, since, ack))
      },
      fail: (error) => {
        answered()
        this.#isOneByOne ||= error.code === 'timeout'
        if (error.code === 'rate_limited') {
          each((subscription) => this.#enqueue(subscription))
          listeners.emit('error', new PSError(error.code, error.reason, { retryable: true, action: 'subscribe' }))
        } else if (error.retryable) {
          each((subscription) => this.#refuse(subscription, [], refusal(error, subscription.topic), since))
        } else each((subscription) => this.#askAfresh(subscription)) // the server does not know of resumes
      },
      lost: () => (this.#isOneByOne ||= performance.now() - sentAt >= options.timeout),
    })
    requests.send(request, [], { ...outcome, isHidden: true })
  }

  /** Take the answer of a resume for one subscription. */
  #resumed(subscription, since, ack) {
    const { recovered, error } = resultOf(ack, subscription.topic)
    if (error) return this.#refuse(subscription, [], error, since)
    if (recovered === undefined) return this.#askAfresh(subscription)
    Object.assign(subscription, { isLive: true, since: '', isBroken: false })
    subscription.position.raise(ack.cursor)
    if (subscription.waiting.length) this.#enqueue(subscription)
    if (!recovered) this.#reset(subscription)
    this.#settle(subscription)
  }

  /** Ask for a subscription that cannot be resumed. */
  #askAfresh(subscription) {
    Object.assign(subscription, { isBroken: true, since: '' })
    this.#unasked.add(subscription)
    this.#parts.onWork()
  }

  /** Ask the server for a subscription, on behalf of calls that wait for it (none: only to restore it). */
  #ask(subscription) {
    const { requests, pacer, listeners, connection } = this.#parts
    if (subscription.fetchGrant) {
      this.#unasked.delete(subscription)
      return this.#fetchGrant(subscription)
    }
    const { topic, isToRestore } = subscription
    if (isToRestore) subscription.isPutOff = false
    const { calls, fields } = subscription.takeWaiting(connection.pageCursor)
    const isWanted = () => this.#byTopic.get(topic) === subscription
    if (!subscription.waiting.length) this.#unasked.delete(subscription)
    subscription.asked++
    requests.send({ action: 'subscribe', topic, fields }, calls, pacer.pace({
      done: (ack) => {
        subscription.asked--
        subscription.isLive = subscription.wasGranted = true
        subscription.position.raise(ack.cursor)
        for (const call of calls) {
          call.isGranted = true
          subscription.finish(call, ack)
          call.resolve(ack)
        }
        const cut = calls.filter(({ since }) => since && ack.recovered !== true)
        if (isWanted() && (subscription.isBroken || cut.length)) this.#reset(subscription, cut)
        this.#settle(subscription)
      },
      fail: (error) => {
        subscription.asked--
        if (isToRestore) subscription.isPutOff = error.retryable
        if (error.code === 'rate_limited' && isWanted()) {
          subscription.waiting.unshift(...calls)
          this.#unasked.add(subscription)
          listeners.emit('error', error)
        } else this.#refuse(subscription, calls, error)
      },
      lost: () => {
        if (isWanted()) subscription.wait(calls)
        else for (const call of calls) call.cancel()
      },
    }))
  }

  /** Send an unsubscribe, unless the topic is wanted again. */
  #leave(call) {
    const { requests, pacer, listeners } = this.#parts
    const { topic } = call
    if (this.#byTopic.has(topic)) return call.resolve(localAck(topic))
    requests.send(call, [call], pacer.pace({
      done: (ack) => {
        this.#byTopic.get(topic)?.forgetEarly()
        call.resolve(ack)
      },
      fail: (error) => {
        if (error.code !== 'rate_limited') return call.fail(error)
        this.#leaving.push(call)
        listeners.emit('error', error)
      },
      lost: () => call.resolve(localAck(topic)),
    }))
  }

  /** Take a refusal. Of a resume, `since` is its cursor. */
  #refuse(subscription, calls, error, since = '') {
    const { requests, listeners, options } = this.#parts
    const { topic, holders, isLive, isToRestore, asked, waiting } = subscription
    for (const call of calls) {
      subscription.detach(call)
      call.reject(error)
    }
    const isAskedAgain = asked > 0 || (waiting.length > 0 && !isToRestore)
    const isSuperseded = this.#byTopic.get(topic) !== subscription || isLive || isAskedAgain
    // If the refusal is that of another call, the subscription from before may have been put off already.
    if (!isSuperseded && holders.size && isToRestore && (error.retryable || subscription.isPutOff)) {
      subscription.since = since
      if (!this.#retryTimer.isRunning) this.#retryTimer.start(jitter(this.#refusals++, options), () => this.#retry())
    } else if (!isSuperseded) {
      // The server may still grant it later, and would deliver what nobody here wants.
      if (error.code === 'timeout') {
        const done = () => this.#byTopic.get(topic)?.forgetEarly()
        requests.send({ action: 'unsubscribe', topic }, [], { ...IGNORE, done })
      }
      this.#end(subscription, error.code, error.reason)
      this.#parts.onWork()
    }
    listeners.emit('error', error)
    if (this.#byTopic.get(topic) !== subscription) this.#settle(subscription)
    else this.#tellResets()
  }

  /** Drop the calls that the server has granted, and tell them. */
  #end(subscription, code, reason) {
    const { topic } = subscription
    const ended = subscription.calls.filter(({ isGranted }) => isGranted)
    for (const call of ended) subscription.detach(call)
    if (subscription.holders.size) {
      Object.assign(subscription, { isLive: false, wasGranted: false, isBroken: false, since: '' })
      subscription.forgetEarly()
      if (subscription.waiting.length && !subscription.isResuming) this.#enqueue(subscription)
    } else this.#forget(topic)
    this.#tellEnd(ended, { topic, code, reason })
  }

  /** Tell the calls of a subscription that the server has ended it. */
  #tellEnd(calls, end) {
    if (!calls.length) return
    for (const onUnsubscribed of new Set(calls.map(({ onUnsubscribed }) => onUnsubscribed))) {
      if (onUnsubscribed) guard(onUnsubscribed, end)
    }
    this.#parts.listeners.emit('unsubscribed', end)
  }

  #retry() {
    for (const subscription of this.#byTopic.values()) {
      if (!subscription.isLive && !subscription.asked) this.#enqueue(subscription)
    }
    this.#parts.onWork()
  }

  #forget(topic) {
    const subscription = this.#byTopic.get(topic)
    this.#byTopic.delete(topic)
    this.#unresumed.delete(subscription)
    this.#unasked.delete(subscription)
  }

  /** Note that a subscription from before the connection is live, or is gone for good. */
  #settle(subscription) {
    const wasLast = this.#restoring.delete(subscription) && !this.#restoring.size
    this.#tellResets()
    if (wasLast) this.#parts.onRestored()
  }

  // Resets

  /** Tell calls of a subscription that it may have missed messages: all that are live, if no others are named. */
  #reset(subscription, calls = []) {
    const { topic, isBroken } = subscription
    const told = calls.length && !isBroken ? calls : subscription.calls.filter((call) => !subscription.early.has(call))
    subscription.isBroken = false
    this.#resetTopics.add(topic)
    for (const onReset of new Set(told.map(({ onReset }) => onReset))) {
      if (onReset) guard(onReset, { topic })
    }
  }

  /** Tell listeners of all resets at once, when the answers to what was restored are there. */
  #tellResets() {
    const isQueued = (each) => this.#unresumed.has(each) || this.#unasked.has(each)
    const isAsked = (each) => each.asked > 0 || each.isResuming || each.fetching || isQueued(each)
    if (!this.#resetTopics.size || [...this.#restoring].some(isAsked)) return
    const topics = [...this.#resetTopics].filter((topic) => this.#byTopic.has(topic))
    this.#resetTopics.clear()
    if (topics.length) this.#parts.listeners.emit('reset', { topics })
  }

  /** Whether a topic has a parent that is subscribed to. */
  #hasParent(topic) {
    for (let end = topic.lastIndexOf('.'); end > 0; end = topic.lastIndexOf('.', end - 1)) {
      if (this.#byTopic.has(topic.slice(0, end))) return true
    }
    return false
  }
}
