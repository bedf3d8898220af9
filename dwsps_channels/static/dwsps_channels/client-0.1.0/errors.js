/** A failed call, or a complaint of the server about the connection. The code is one of the server's or of the client's own. */
export class PSError extends Error {
  constructor(code, reason, { retryable = false, action, topic, cause } = {}) {
    super([action, topic, code, reason].filter(Boolean).join(': '), cause && { cause })
    this.name = 'PSError'
    Object.assign(this, { code, reason, retryable, action, topic })
  }
}
