const LONGEST_DELAY = 2 ** 31 - 1 // setTimeout runs at once for anything longer

/** One timeout, which can be started again. */
export class Timer {
  #timeout = null

  get isRunning() {
    return this.#timeout !== null
  }

  /** Run `act` after `delay` ms, instead of what was started before. */
  start(delay, act) {
    clearTimeout(this.#timeout)
    this.#timeout = setTimeout(() => {
      this.#timeout = null
      act()
    }, Math.min(delay, LONGEST_DELAY))
  }

  stop() {
    clearTimeout(this.#timeout)
    this.#timeout = null
  }
}
