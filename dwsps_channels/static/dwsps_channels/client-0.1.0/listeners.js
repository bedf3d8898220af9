/** The user's event listeners. */
export class Listeners {
  #byEvent = new Map() // event -> [{ listener, once }]; an array is replaced, never changed
  #opening = null

  /** A token for the 'open' listener that runs at this moment, `{ listener }`; null if none does. */
  get opening() {
    return this.#opening
  }

  add(event, listener, once = false) {
    if (typeof listener !== 'function') throw new TypeError('a listener is a function')
    this.#byEvent.set(event, [...this.#get(event), { listener, once }])
  }

  remove(event, listener) {
    this.#byEvent.set(event, this.#get(event).filter((entry) => entry.listener !== listener))
  }

  emit(event, value) {
    for (const entry of this.#get(event)) {
      if (entry.once) this.#byEvent.set(event, this.#get(event).filter((other) => other !== entry))
      const outer = this.#opening
      this.#opening = event === 'open' ? { listener: entry.listener } : null
      guard(entry.listener, value)
      this.#opening = outer
    }
  }

  #get(event) {
    return this.#byEvent.get(event) ?? []
  }
}

/** Run the user's code. Report what it throws, or rejects with later, and go on. */
export function guard(run, value) {
  try {
    run(value)?.then?.(undefined, report)
  } catch (error) {
    report(error)
  }
}

function report(error) {
  if (typeof globalThis.reportError === 'function') globalThis.reportError(error)
  else console.error(error)
}
