import { resolveAddress, takeCursor } from './address.js';
import { Backoff } from './backoff.js';
import { obtain } from './credentials.js';
import { Timer } from './timer.js';

/** A connection that lasts for so many ms is stable: the next delays start at `minDelay` again. */
const STABLE_AFTER = 10_000

/** A websocket that is replaced if it breaks, until `close`. */
export class Connection {
  #locate = null // returns the URL for each connection, if the user gave a function
  #url = ''
  #pageCursor = ''
  #WebSocket
  #options
  #handlers
  #backoff
  #current = null // identifies the current attempt and its socket; events of an older one are ignored
  #socket = null
  #isOpen = false
  #isReady = false
  #problem = '' // why this connection ends, as far as known; used if the close itself gives no reason
  #heardAt = 0
  #connectTimer = new Timer() // ends an attempt that takes too long, or starts the next one
  #stableTimer = new Timer()
  #silenceTimer = new Timer()

  /**
   * @param {object} options  `timeout`, `keepAlive`, `minDelay`, `maxDelay`, in ms; `token`, a string or a function
   * @param {object} handlers  `opened(token)`, `received(data)`, `silent()`, `lost({ code, reason, attempt, delay })`,
   *   `ended(code, reason)`; nothing comes after the last one
   * @throws {TypeError} the URL cannot be resolved
   */
  constructor(url, WebSocket, options, handlers) {
    this.#WebSocket = WebSocket
    this.#options = options
    this.#handlers = handlers
    this.#backoff = new Backoff(options)
    if (typeof url === 'function') this.#locate = url
    else this.#resolve(url)
  }

  /** The address, resolved; empty until a function has returned the first. */
  get url() {
    return this.#url
  }

  /** The cursor in the first address that had one; empty before. */
  get pageCursor() {
    return this.#pageCursor
  }

  /** Whether `send` may be called. */
  get isOpen() {
    return this.#isOpen
  }

  /** Whether the user's requests may go out: see `begin`. */
  get isReady() {
    return this.#isReady
  }

  /** The time of the last frame, on `performance`'s clock. */
  get heardAt() {
    return this.#heardAt
  }

  open() {
    this.#connect()
    globalThis.addEventListener?.('online', this.#wake)
    globalThis.document?.addEventListener('visibilitychange', this.#wake)
  }

  /** Let the user's requests go out: the server knows who the user is. */
  begin() {
    this.#isReady = true
  }

  send(text) {
    this.#socket.send(text)
  }

  /** Keep what the server said about this connection, in case that the close gives no reason. */
  explain(reason) {
    this.#problem = reason
  }

  /**
   * Give up a socket without waiting for its closing handshake, which may take minutes, and reconnect, unless the code
   * forbids it.
   */
  abandon(reason, code = 1006) {
    if (!this.#current) return // a listener has closed the client
    const socket = this.#socket
    this.#lose(code, reason)
    socket?.close()
  }

  /** Close for good. No handler is called. */
  close() {
    const socket = this.#socket
    this.#stop()
    socket?.close(1000)
  }

  #connect() {
    const current = (this.#current = {})
    this.#problem = ''
    const { timeout, token } = this.#options
    if (this.#locate || typeof token === 'function') this.#prepareAndDial(current)
    else this.#dial(current, token)
    this.#connectTimer.start(timeout, () => {
      const missing = [this.#locate && 'URL', typeof token === 'function' && 'token'].filter(Boolean).join(' or ')
      this.abandon(this.#socket ? 'the server did not accept the connection' : `the function gave no ${missing} in time`)
    })
  }

  async #prepareAndDial(current) {
    await null // so that listeners added in this turn hear of an immediate failure
    const { timeout, token: source } = this.#options
    try {
      const url = await this.#locate?.call(null)
      const token = await obtain(source, 'token', timeout)
      if (this.#current !== current) return
      if (this.#locate) this.#resolve(url)
      this.#dial(current, token)
    } catch (error) {
      if (this.#current === current) this.#lose(1006, `no connection: ${error?.message ?? error}`)
    }
  }

  #resolve(url) {
    const { address, since } = takeCursor(resolveAddress(url))
    this.#url = address
    this.#pageCursor ||= since
  }

  #dial(current, token) {
    const socket = new this.#WebSocket(this.#url)
    const ifCurrent = (handle) => (event) => {
      if (this.#current === current) handle(event)
    }
    this.#socket = socket
    socket.binaryType = 'arraybuffer'
    socket.onopen = ifCurrent(() => this.#opened(token))
    socket.onmessage = ifCurrent((event) => {
      this.#heardAt = performance.now()
      this.#handlers.received(event.data)
    })
    socket.onerror = ifCurrent((event) => (this.#problem ||= event.message ?? '')) // only ws gives a message
    socket.onclose = ifCurrent((event) => this.#lose(event.code, event.reason))
  }

  #opened(token) {
    this.#isOpen = true
    this.#heardAt = performance.now()
    this.#connectTimer.stop()
    this.#stableTimer.start(STABLE_AFTER, () => this.#backoff.reset())
    this.#watch()
    this.#handlers.opened(token)
  }

  /** Report a silence of `keepAlive`, again and again: browsers neither send nor show pings. */
  #watch() {
    const { keepAlive } = this.#options
    if (!keepAlive) return
    const left = this.#heardAt + keepAlive - performance.now()
    if (left <= 0) this.#handlers.silent()
    this.#silenceTimer.start(left > 0 ? left : keepAlive, () => this.#watch())
  }

  /** Do not wait any longer: the network is back, or the page is visible again. */
  #wake = ({ type }) => {
    if (type === 'visibilitychange' && globalThis.document.visibilityState !== 'visible') return
    if (!this.#current) this.#reconnect()
    else if (this.#isOpen && this.#options.keepAlive) this.#handlers.silent() // the machine may have slept
  }

  #reconnect() {
    try {
      this.#connect()
    } catch (error) {
      this.#lose(1006, error.message) // the user's WebSocket class may throw, and no caller is there to catch it
    }
  }

  #lose(code, closeReason) {
    const reason = closeReason || this.#problem
    const retry = this.#backoff.next(code)
    if (!retry) {
      this.#stop()
      return this.#handlers.ended(code, reason)
    }
    this.#release()
    this.#connectTimer.start(retry.delay, () => this.#reconnect())
    this.#handlers.lost({ code, reason, ...retry })
  }

  #release() {
    for (const timer of [this.#connectTimer, this.#stableTimer, this.#silenceTimer]) timer.stop()
    this.#current = this.#socket = null
    this.#isOpen = this.#isReady = false
  }

  #stop() {
    this.#release()
    globalThis.removeEventListener?.('online', this.#wake)
    globalThis.document?.removeEventListener('visibilitychange', this.#wake)
  }
}
