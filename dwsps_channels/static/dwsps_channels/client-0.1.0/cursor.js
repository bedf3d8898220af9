/** A cursor, as the server writes it: `<epoch>:<offset>`. */
const CURSOR = /^([\w-]{1,32}):(\d{1,16})$/

function parse(cursor) {
  const [, epoch = '', offset = 0] = CURSOR.exec(cursor) ?? []
  return { epoch, offset: Number(offset) }
}

/** A place in the server's log: everything up to it was handed over. */
export class Position {
  #epoch = '' // which life of the log; empty if the server has none, or has not said yet
  #offset = 0

  /** The text that the server reads; empty as long as no cursor is known. */
  get cursor() {
    return this.#epoch && `${this.#epoch}:${this.#offset}`
  }

  /** Move to a cursor of the server; undefined, or a malformed one, means that it has no log. */
  set(cursor) {
    const { epoch, offset } = parse(cursor)
    this.#epoch = epoch
    this.#offset = offset
  }

  /** Move to a cursor, but not back within one epoch. */
  raise(cursor) {
    const { epoch, offset } = parse(cursor)
    if (epoch !== this.#epoch || offset > this.#offset) this.set(cursor)
  }

  /** Move to a cursor if it is of another epoch. */
  enter(cursor) {
    if (parse(cursor).epoch !== this.#epoch) this.set(cursor)
  }

  /** Move to the offset of a delivery, in the epoch of this connection; return false if it is not ahead. */
  advance(offset) {
    if (!this.#epoch || offset === undefined) return true // nothing is known about the order
    if (offset <= this.#offset) return false
    this.#offset = offset
    return true
  }
}

/** Whether a delivery is later than a cursor of the same epoch. */
export function isAfter(offset, cursor) {
  return offset > parse(cursor).offset
}
