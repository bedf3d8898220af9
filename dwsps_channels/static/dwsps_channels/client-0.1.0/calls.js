import { PSError } from './errors.js';
import { encodeRequest, isAboutConnection } from './frames.js';
import { Timer } from './timer.js';

/** One call of `subscribe`, `unsubscribe` or `publish`, with the promise that its caller holds. */
export class Call {
  #listeners
  fields = '' // what the request has beside its topic: see `encodeRequest`

  constructor(action, topic, listeners) {
    this.action = action
    this.topic = topic
    this.#listeners = listeners
    this.promise = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }))
    this.promise.catch(() => {}) // handling it is optional, and Node exits on an unhandled rejection
  }

  error(code, reason, details) {
    const { action, topic } = this
    return new PSError(code, reason, { ...details, action, topic })
  }

  /** Reject, and tell 'error' listeners. For what the user did, `reject` alone. */
  fail(error) {
    this.reject(error)
    this.#listeners.emit('error', error)
  }

  cancel() {
    this.reject(this.error('cancelled', 'unsubscribed before the server had answered'))
  }
}

/** The ack of an unsubscribe that the server need not hear of. */
export function localAck(topic) {
  return { type: 'ack', action: 'unsubscribe', timestamp: new Date().toISOString(), topic }
}

/** The outcome of a request that nobody waits for. */
export const IGNORE = { done() {}, fail() {}, lost() {} }

/** The requests that the server has not answered. */
export class Requests {
  #connection
  #timeout
  #lastId = 0
  #byId = new Map() // in order of sending, hence of deadline
  #timer = new Timer()

  /** @param {number} timeout  ms that the server has for an answer */
  constructor(connection, timeout) {
    this.#connection = connection
    this.#timeout = timeout
  }

  /**
   * Send a request on the open connection. Exactly one of `done(ack)`, `fail(error)` and `lost(reason)` is called.
   * @param {{ action: string, topic?: string, fields?: string }} request
   * @param {Call[]} calls  those that wait for the answer
   */
  send(request, calls, outcome) {
    const id = ++this.#lastId
    const { action, topic } = request
    this.#byId.set(id, { action, topic, calls, sentAt: performance.now(), hasExpired: false, ...outcome })
    this.#connection.send(encodeRequest(request, id))
    if (!this.#timer.isRunning) this.#timer.start(this.#timeout, () => this.#expire())
  }

  /**
   * Remove the request that an ack or an error answers, and return it. dwsps 1.0.1 echoes no id, but answers in order;
   * a server that cannot read a frame may find no id in it.
   */
  take(frame) {
    let { id } = frame
    if (id == null && !isAboutConnection(frame)) id = this.#oldestMatch(frame)
    const request = this.#byId.get(id)
    this.#byId.delete(id)
    return request
  }

  /** Forget all, and return those that wait for an answer. */
  clear() {
    const requests = [...this.#byId.values()].filter(({ hasExpired }) => !hasExpired)
    this.#byId.clear()
    this.#timer.stop()
    return requests
  }

  #oldestMatch({ type, action, topic }) {
    const isOf = (given, own) => given === own || (type === 'error' && given === undefined)
    for (const [id, request] of this.#byId) {
      if (isOf(action, request.action) && isOf(topic, request.topic)) return id
    }
  }

  /** Fail what has waited too long. If nothing at all came since, the connection is dead. */
  #expire() {
    for (const request of this.#byId.values()) {
      const { action, topic, sentAt, hasExpired } = request
      if (hasExpired) continue
      const left = sentAt + this.#timeout - performance.now()
      if (left > 0) return this.#timer.start(left, () => this.#expire())
      if (this.#connection.heardAt < sentAt) {
        return this.#connection.abandon(`the server was silent for ${this.#timeout} ms`)
      }
      request.hasExpired = true // but not removed: an ack without an id answers the oldest, which this one still is
      const reason = `no answer within ${this.#timeout} ms`
      request.fail(new PSError('timeout', reason, { retryable: true, action, topic }))
    }
  }
}
