import { jitter, UNAUTHORIZED } from './backoff.js';
import { obtain } from './credentials.js';
import { PSError } from './errors.js';
import { Timer } from './timer.js';

/** The client's proof of who its user is: a token, the first frame of each connection, renewed before it expires. */
export class Authentication {
  #parts
  #acceptedAt = 0 // when the server took the latest token, on `performance`'s clock
  #renewal = null // identifies the renewal that runs; what comes of an older one is ignored
  #failures = 0 // on this connection since the server took a token
  #timer = new Timer() // starts the next attempt

  /**
   * @param {object} parts  of the client: `connection`, `requests`, `listeners`, `options`; `onAuthenticated()` is called
   *   after each token that the server takes, and if there is no token to send
   */
  constructor(parts) {
    this.#parts = parts
  }

  /** Send a token; an empty one stands for none. */
  send(token) {
    const { connection, requests, listeners, onAuthenticated } = this.#parts
    if (!token) return onAuthenticated()
    requests.send({ action: 'authenticate', fields: `,"token":${JSON.stringify(token)}` }, [], {
      isHidden: true,
      done: () => {
        this.#failures = 0
        this.#acceptedAt = performance.now()
        onAuthenticated()
      },
      fail: (error) => {
        listeners.emit('error', error)
        if (error.retryable) this.#retry()
        else if (!connection.isReady) connection.abandon(error.reason, UNAUTHORIZED)
      },
      lost() {},
    })
  }

  /** Renew a token that expires in so many seconds, but not before half of its life, which may be short. */
  expire(seconds) {
    if (typeof this.#parts.options.token !== 'function') return
    const age = performance.now() - this.#acceptedAt
    this.#timer.start(Math.max(0, (seconds * 1000 - age) / 2), () => this.#renew())
  }

  /** Note the loss of the connection. */
  stop() {
    this.#renewal = null
    this.#failures = 0
    this.#timer.stop()
  }

  async #renew() {
    if (this.#renewal) return
    const { listeners, options } = this.#parts
    const renewal = (this.#renewal = {})
    let token, problem
    try {
      token = await obtain(options.token, 'token', options.timeout)
    } catch (cause) {
      const details = { retryable: true, action: 'authenticate', cause }
      problem = new PSError('no_token', String(cause?.message ?? cause), details)
    }
    if (this.#renewal !== renewal) return
    this.#renewal = null
    if (!problem) return this.send(token)
    listeners.emit('error', problem)
    this.#retry()
  }

  #retry() {
    const { connection, options } = this.#parts
    if (!connection.isOpen) return // a listener has closed the client
    this.#timer.start(jitter(this.#failures++, options), () => this.#renew())
  }
}
