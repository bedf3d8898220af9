import { Timer } from './timer.js';

// How many subscribes, unsubscribes and queued publishes may await their answer at once. The window grows with each
// ack, and shrinks to 1 if the server says `rate_limited`. So fewer requests in a row are refused than a rate limit
// allows in one burst: the server closes a client that goes on beyond its limit.
const FIRST_WINDOW = 16
const LARGEST_WINDOW = 128

/** Congestion control: how many requests go out at once, when there are more than the server may want to take. */
export class Pacer {
  #options
  #onRoom
  #window = FIRST_WINDOW
  #isProbing = true // the window grows by half per round trip until the server first refuses; from then on by one
  #inFlight = 0 // requests that count against the window
  #pauses = 0 // `rate_limited` answers since the last ack
  #pause = new Timer()

  /**
   * @param {{ minDelay: number, maxDelay: number }} options  ceilings of a pause in ms
   * @param {() => void} onRoom  called if another request may go out
   */
  constructor(options, onRoom) {
    this.#options = options
    this.#onRoom = onRoom
  }

  get hasRoom() {
    return !this.#pause.isRunning && this.#inFlight < Math.floor(this.#window)
  }

  /** Start afresh on a connection, which may have reached another server. */
  reset() {
    this.#pauses = this.#inFlight = 0
    this.#window = Math.min(this.#window, FIRST_WINDOW)
  }

  stop() {
    this.#pause.stop()
  }

  /** Count a request against the window until it is answered: wrap its outcome. */
  pace({ done, fail, lost }) {
    this.#inFlight++
    return {
      done: (ack) => {
        this.#inFlight--
        this.#pauses = 0
        this.#window = Math.min(LARGEST_WINDOW, this.#window + (this.#isProbing ? 0.5 : 1 / this.#window))
        done(ack)
        this.#onRoom()
      },
      fail: (error) => {
        this.#inFlight--
        if (error.code === 'rate_limited' && !this.#pause.isRunning) this.#slowDown()
        fail(error)
        this.#onRoom()
      },
      lost,
    }
  }

  #slowDown() {
    const { minDelay, maxDelay } = this.#options
    const delay = Math.min(maxDelay, minDelay * 2 ** this.#pauses++)
    this.#isProbing = false
    this.#window = 1
    this.#pause.start(delay * (1 + Math.random()) / 2, this.#onRoom)
  }
}
