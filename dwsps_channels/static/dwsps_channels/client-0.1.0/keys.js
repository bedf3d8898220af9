/** Keys by which a server knows publishes that are sent again: unique to this client, and counted. */
export class PublishKeys {
  #prefix = Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join('')
  #count = 0

  next() {
    return `${this.#prefix}-${++this.#count}`
  }
}
