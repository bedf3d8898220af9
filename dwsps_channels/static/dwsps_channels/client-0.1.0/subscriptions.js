import { jitter } from './backoff.js';
import { IGNORE, localAck } from './calls.js';
import { Timer } from './timer.js';

/** What the user wants of one topic, and what the server has granted of it. */
class Subscription {
  holders = new Map() // handler or undefined -> the calls that brought it
  waiting = [] // calls that the next request answers
  asked = 0 // requests without an answer
  isLive = false // acknowledged on this connection
  wasGranted = false // acknowledged on any connection

  constructor(topic) {
    this.topic = topic
  }

  attach(call) {
    this.holders.set(call.handler, (this.holders.get(call.handler) ?? new Set()).add(call))
    this.waiting.push(call)
  }

  /** Let go of a call; return false if it was not attached. */
  detach(call) {
    const calls = this.holders.get(call.handler)
    const wasAttached = calls?.delete(call) ?? false
    if (calls?.size === 0) this.holders.delete(call.handler)
    return wasAttached
  }

  /**
   * Let go of what an 'open' listener attached when it ran before. Programs for dwsps 1.0.1 subscribe in such a
   * listener, often with a new function; here, it runs on every reconnection.
   */
  detachOlder(opening) {
    const calls = [...this.holders.values()].flatMap((calls) => [...calls])
    for (const call of calls) {
      if (call.opening && call.opening.listener === opening?.listener && call.opening !== opening) this.detach(call)
    }
  }
}

/** The subscriptions of one client, across reconnections. */
export class Subscriptions {
  #parts
  #byTopic = new Map() // what the user wants, whether the server knows of it or not
  #unasked = new Set() // subscriptions to ask the server for
  #leaving = [] // unsubscribe calls to send
  #restoring = new Set() // subscriptions from before the connection that are not live yet
  #refusals = 0 // how often, on this connection, the server put off subscriptions from before
  #retryTimer = new Timer()

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

  /** Whether `sendNext` has something to send. */
  get isWaiting() {
    return this.#leaving.length > 0 || this.#unasked.size > 0
  }

  has(topic) {
    return this.#byTopic.has(topic)
  }

  /** The handlers of a topic at this moment; undefined stands for calls without one. */
  handlers(topic) {
    return [...(this.#byTopic.get(topic)?.holders.keys() ?? [])]
  }

  /** Subscribe on behalf of a call, with `handler` and `opening`. */
  add(call) {
    let subscription = this.#byTopic.get(call.topic)
    if (!subscription) {
      subscription = new Subscription(call.topic)
      this.#byTopic.set(call.topic, subscription)
    }
    if (this.#parts.options.dwsps1) subscription.detachOlder(call.opening)
    subscription.attach(call)
    this.#unasked.add(subscription)
    this.#parts.onWork()
  }

  /** Drop all of a topic on behalf of an unsubscribe call. */
  drop(call) {
    const subscription = this.#byTopic.get(call.topic)
    for (const waiting of subscription?.waiting ?? []) waiting.cancel()
    this.#byTopic.delete(call.topic)
    this.#unasked.delete(subscription)
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

  /** Mark all to be asked for on a new connection; return how many they are. */
  restore() {
    this.#refusals = 0
    this.#restoring = new Set(this.#byTopic.values())
    this.#unasked = new Set(this.#restoring)
    return this.#restoring.size
  }

  /** Note the loss of the connection, with which the server's subscriptions end. */
  disconnect() {
    this.#retryTimer.stop()
    this.#restoring.clear()
    this.#unasked.clear()
    for (const subscription of this.#byTopic.values()) Object.assign(subscription, { isLive: false, asked: 0 })
    for (const call of this.#leaving.splice(0)) call.resolve(localAck(call.topic))
  }

  /** Forget all, and return the calls that are not answered. */
  clear() {
    const waiting = [...this.#byTopic.values()].flatMap((subscription) => subscription.waiting)
    const calls = [...waiting, ...this.#leaving.splice(0)]
    this.#byTopic.clear()
    this.disconnect()
    return calls
  }

  /** Send the next request; return false if there was nothing to send. */
  sendNext() {
    const [subscription] = this.#unasked
    if (this.#leaving.length) this.#leave(this.#leaving.shift())
    else if (subscription) {
      this.#unasked.delete(subscription)
      this.#ask(subscription, subscription.waiting.splice(0))
    } else return false
    return true
  }

  /** Ask the server for a subscription, on behalf of the calls that wait for it (none: only to restore it). */
  #ask(subscription, calls) {
    const { requests, pacer, listeners } = this.#parts
    const { topic } = subscription
    const isWanted = () => this.#byTopic.get(topic) === subscription
    subscription.asked++
    requests.send({ action: 'subscribe', topic }, calls, pacer.pace({
      done: (ack) => {
        subscription.asked--
        subscription.isLive = subscription.wasGranted = true
        for (const call of calls) call.resolve(ack)
        this.#settle(subscription)
      },
      fail: (error) => {
        subscription.asked--
        if (error.code === 'rate_limited' && isWanted()) {
          subscription.waiting.unshift(...calls)
          this.#unasked.add(subscription)
          listeners.emit('error', error)
        } else this.#refuse(subscription, calls, error)
      },
      lost: () => {
        if (isWanted()) subscription.waiting.push(...calls)
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
      done: call.resolve,
      fail: (error) => {
        if (error.code !== 'rate_limited') return call.fail(error)
        this.#leaving.push(call)
        listeners.emit('error', error)
      },
      lost: () => call.resolve(localAck(topic)),
    }))
  }

  #refuse(subscription, calls, error) {
    const { requests, listeners, options } = this.#parts
    const { topic, holders, isLive, asked, waiting, wasGranted } = subscription
    for (const call of calls) {
      subscription.detach(call)
      call.reject(error)
    }
    const isSuperseded = this.#byTopic.get(topic) !== subscription || isLive || asked > 0 || waiting.length > 0
    if (!isSuperseded && holders.size && wasGranted && error.retryable) {
      if (!this.#retryTimer.isRunning) this.#retryTimer.start(jitter(this.#refusals++, options), () => this.#retry())
    } else if (!isSuperseded) {
      this.#byTopic.delete(topic)
      // The server may still grant it later, and would deliver what nobody here wants.
      if (error.code === 'timeout') requests.send({ action: 'unsubscribe', topic }, [], IGNORE)
    }
    listeners.emit('error', error)
    if (this.#byTopic.get(topic) !== subscription) this.#settle(subscription)
  }

  #retry() {
    for (const subscription of this.#byTopic.values()) {
      if (!subscription.isLive && !subscription.asked) this.#unasked.add(subscription)
    }
    this.#parts.onWork()
  }

  /** Note that a subscription from before the connection is live, or is gone for good. */
  #settle(subscription) {
    if (this.#restoring.delete(subscription) && !this.#restoring.size) this.#parts.onRestored()
  }
}
