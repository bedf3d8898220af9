// Ranges of close codes tell the client what to do (docs/reference/protocol.md, "Closing").
const isFinal = (code) => code >= 4000 && code <= 4099
/** The close code of a server that does not know, or no longer knows, who the client is. */
export const UNAUTHORIZED = 4001

const isImmediate = (code) => code >= 4200 && code <= 4299

/**
 * A random delay in ms. Full jitter: anything up to a ceiling that doubles with each attempt, so that clients that were
 * disconnected together do not reconnect together.
 */
export function jitter(attempt, { minDelay, maxDelay }) {
  return Math.random() * Math.min(maxDelay, minDelay * 2 ** attempt)
}

/** The delays before reconnecting. */
export class Backoff {
  #options
  #attempt = 0 // reconnections since the last stable connection
  #wasImmediate = false // one of them had no delay
  #wasRenewal = false // one of them was for a new token

  /** @param {object} options  `minDelay`, `maxDelay`: ceilings in ms; `token`: a function of the user can renew it */
  constructor(options) {
    this.#options = options
  }

  /** Start from the shortest delay again. */
  reset() {
    this.#attempt = 0
    this.#wasImmediate = this.#wasRenewal = false
  }

  /**
   * Decide on the next attempt after a close code.
   * @returns {{ attempt: number, delay: number } | null} the delay in ms; null: the server forbids reconnecting
   */
  next(code) {
    const isRenewal = code === UNAUTHORIZED && typeof this.#options.token === 'function' && !this.#wasRenewal
    if (isFinal(code) && !isRenewal) return null
    this.#wasRenewal ||= isRenewal
    // Only once, so that a server that closes every connection with such a code is not called without pause.
    const delay = isImmediate(code) && !this.#wasImmediate ? 0 : jitter(this.#attempt, this.#options)
    this.#wasImmediate ||= isImmediate(code)
    return { attempt: ++this.#attempt, delay }
  }
}
