/**
 * A live log: newest first, bounded, drawn once a frame however much comes in.
 *
 * What it shows was written by strangers, so it only ever becomes text, never markup.
 */

const KINDS = ['message', 'ack', 'error', 'connection']
const LONGEST_TEXT = 600 // characters of a message in its row; its frame shows all of it

/**
 * @typedef {object} Entry
 * @property {"message" | "ack" | "error" | "connection"} kind
 * @property {string} text
 * @property {string} [topic]
 * @property {string} [context]  the subscription that brought it
 * @property {string} [hue]      the subscription's colour
 * @property {string} [badge]    what is special about a message
 * @property {boolean} [fromPeer]
 * @property {object} [frame]    as it came, shown when the row is opened
 */

export class Log {
  /** Rows kept, and as many entries while paused: older ones make room. */
  limit = 500
  counts = Object.fromEntries(KINDS.map((kind) => [kind, 0]))
  paused = false

  #list
  #changed
  #waiting = []
  #drawing = 0
  #rows = new WeakMap() // row -> its entry

  /**
   * @param {HTMLElement} list
   * @param {() => void} changed  called after each drawing, and when anything but the rows has changed
   */
  constructor(list, changed) {
    this.#list = list
    this.#changed = changed
    list.addEventListener('toggle', (event) => this.#showFrame(event.target), { capture: true })
    list.addEventListener('keydown', (event) => this.#move(event))
    list.addEventListener('focusin', (event) => this.#rove(event.target))
  }

  /** Entries that came in since the log was paused and are still kept. */
  get waiting() {
    return this.paused ? this.#waiting.length : 0
  }

  get size() {
    return this.#list.childElementCount
  }

  /** @param {Entry} entry */
  add(entry) {
    this.counts[entry.kind] += 1
    this.#waiting.push({ ...entry, at: new Date() })
    if (this.#waiting.length > this.limit) this.#waiting.shift()
    this.#draw()
  }

  pause(paused) {
    this.paused = paused
    this.#draw()
  }

  clear() {
    this.#list.replaceChildren()
    this.#waiting = []
    for (const kind of KINDS) this.counts[kind] = 0
    this.#changed()
  }

  /** @param {Iterable<string>} kinds  those not to be seen; they are kept all the same */
  hide(kinds) {
    this.#list.dataset.hidden = [...kinds].join(' ')
    this.#keepTabStop()
    this.#changed()
  }

  #draw() {
    this.#drawing ||= requestAnimationFrame(() => {
      this.#drawing = 0
      if (!this.paused && this.#waiting.length) {
        const rows = this.#waiting.map((entry) => this.#row(entry)).reverse()
        this.#waiting = []
        this.#list.prepend(...rows)
        while (this.#list.childElementCount > this.limit) this.#list.lastElementChild.remove()
        this.#keepTabStop()
      }
      this.#changed()
    })
  }

  #row(entry) {
    const row = element('li', { className: 'new' })
    row.dataset.kind = entry.kind
    if (entry.hue !== undefined) row.dataset.hue = entry.hue

    const time = element('time', { dateTime: entry.at.toISOString(), textContent: clock(entry.at) })
    if (entry.frame?.timestamp) time.title = `the frame's own: ${entry.frame.timestamp}`
    const body = element('span', { className: 'body' })
    if (entry.topic !== undefined) body.append(topic(entry.topic, entry.context))
    const text = entry.text.length > LONGEST_TEXT ? `${entry.text.slice(0, LONGEST_TEXT)}…` : entry.text
    body.append(element('code', { className: 'text', textContent: text }))
    if (entry.badge) body.append(element('span', { className: 'badge', textContent: entry.badge }))
    if (entry.fromPeer) body.append(element('span', { className: 'badge', textContent: 'from a peer' }))
    const cells = [time, element('span', { className: 'kind', textContent: entry.kind }), body]
    if (entry.context !== undefined) {
      const context = element('span', { className: 'context' })
      context.append('via ', element('code', { textContent: entry.context }))
      cells.push(context)
    }

    if (!entry.frame) {
      const line = element('div', { className: 'line' })
      line.append(...cells)
      row.append(line)
      return row
    }
    const details = element('details', {})
    const summary = element('summary', { tabIndex: -1 })
    summary.append(...cells)
    details.append(summary)
    row.append(details)
    this.#rows.set(row, entry)
    return row
  }

  #showFrame(details) {
    if (!details.open || details.querySelector('.frame')) return
    const { frame } = this.#rows.get(details.closest('li'))
    details.append(element('pre', { className: 'frame', textContent: JSON.stringify(frame, null, 2) }))
  }

  /** One row of the log is a tab stop, not five hundred: the one that has the focus, else the newest. */
  #rove(target) {
    const summary = target?.closest('summary')
    if (!summary) return
    for (const other of this.#list.querySelectorAll("summary[tabindex='0']")) other.tabIndex = -1
    summary.tabIndex = 0
  }

  #keepTabStop() {
    if (!this.#list.contains(document.activeElement)) this.#rove(this.#visible().next().value)
  }

  *#visible() {
    for (const summary of this.#list.querySelectorAll('summary')) if (summary.checkVisibility()) yield summary
  }

  #move(event) {
    const summaries = [...this.#visible()]
    const here = summaries.indexOf(event.target.closest('summary'))
    const next = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: summaries.length - 1 }[event.key]
    if (next === undefined || event.altKey || event.ctrlKey || event.metaKey) return
    event.preventDefault()
    summaries[Math.min(Math.max(next, 0), summaries.length - 1)]?.focus()
  }
}

/** The topic, with the part that a subscription asked for set apart from what came along with it. */
function topic(name, context) {
  const code = element('code', { className: 'topic' })
  const matched = context !== undefined && (name === context || name.startsWith(`${context}.`)) ? context : ''
  if (matched) code.append(element('b', { textContent: matched }))
  code.append(name.slice(matched.length))
  return code
}

function clock(date) {
  const two = (number) => String(number).padStart(2, '0')
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')
  return `${time}.${String(date.getMilliseconds()).padStart(3, '0')}`
}

export function element(name, properties) {
  return Object.assign(document.createElement(name), properties)
}
