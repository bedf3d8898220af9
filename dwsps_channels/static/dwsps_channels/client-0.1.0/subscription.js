import { isAfter, Position } from './cursor.js';
import { guard } from './listeners.js';
import { encodeGrant, encodeSince } from './resume.js';

/** What the user wants of one topic, and what the server has granted of it. */
export class Subscription {
  holders = new Map() // handler or undefined -> the calls that brought it
  waiting = [] // calls that a later request answers
  early = new Map() // call without an answer -> what has come since it was sent, as offset -> event; null: it waits
  asked = 0 // requests without an answer
  isResuming = false // one of them resumes it
  isLive = false // acknowledged on this connection
  wasGranted = false // acknowledged on any connection
  since = '' // the cursor to resume from; empty: that of the client
  isBroken = false // messages may be missing, and a reset is due
  isPutOff = false // on this connection, the server has put off the request that restores it
  position = new Position() // of the last delivery
  grants = [] // calls that brought a grant, or a function that returns one
  fetching = null // identifies the call of such a function that is not answered
  fetched = null // what it returned for the next request: `{ source, text }`

  constructor(topic) {
    this.topic = topic
  }

  /** Whether a resume can bring it back on this connection. */
  get isResumable() {
    return this.isToRestore && !this.isBroken
  }

  /** Whether the next request asks for what the server has granted on an earlier connection. */
  get isToRestore() {
    return this.wasGranted && !this.isLive && !this.asked
  }

  /** The call that the next request is for; undefined if that only restores what was granted before. */
  get #next() {
    return this.isToRestore ? undefined : this.waiting[0]
  }

  /** The grant of a call, or its function: its own, or the latest that the server has accepted. */
  sourceOf(call) {
    return call?.grant || (this.grants.findLast(({ isGranted }) => isGranted)?.grant ?? '')
  }

  /** A function to call before the next request; undefined if nothing is missing. */
  get fetchGrant() {
    const source = this.sourceOf(this.#next)
    return typeof source === 'function' && this.fetched?.source !== source ? source : undefined
  }

  /** What allows the next request, apart from the server's policy; empty if nothing does. */
  get grant() {
    const source = this.sourceOf(this.#next)
    return typeof source === 'function' ? (this.fetched?.text ?? '') : source
  }

  get calls() {
    return [...this.holders.values()].flatMap((calls) => [...calls])
  }

  /** The handlers that get what is delivered now; undefined stands for calls without one. */
  get handlers() {
    const handlers = [...this.holders.keys()]
    return this.early.size ? handlers.filter((handler) => this.#isServed(handler)) : handlers
  }

  #isServed(handler) {
    return [...(this.holders.get(handler) ?? [])].some((call) => !this.early.has(call))
  }

  /** Take a call. If it replaces one that the server has answered, it gets at once what comes. */
  attach(call, isReplacement) {
    this.holders.set(call.handler, (this.holders.get(call.handler) ?? new Set()).add(call))
    this.waiting.push(call)
    if (call.grant) this.grants.push(call)
    if (!isReplacement || call.since || call.last || call.isEarly) this.early.set(call, null)
  }

  /** Let go of a call; return false if it was not attached. */
  detach(call) {
    const calls = this.holders.get(call.handler)
    const wasAttached = calls?.delete(call) ?? false
    if (calls?.size === 0) this.holders.delete(call.handler)
    this.early.delete(call)
    this.grants = this.grants.filter((other) => other !== call)
    return wasAttached
  }

  /**
   * Let go of what an 'open' listener attached when it ran before. Programs for dwsps 1.0.1 subscribe in such a
   * listener, often with a new function; here, it runs on every reconnection.
   * @returns {boolean} whether the server has answered one of them
   */
  detachOlder(opening) {
    const isOlder = ({ opening: other }) => other && other.listener === opening?.listener && other !== opening
    const older = this.calls.filter(isOlder)
    const wasServed = older.some((call) => !this.early.has(call))
    for (const call of older) this.detach(call)
    return wasServed
  }

  /**
   * Take the waiting calls that one request can answer: those that start where the first does, with the same grant.
   * What was granted before is restored first, so that a bad grant cannot end it.
   * @param {string} pageCursor  where early calls start
   * @returns {{ calls: Call[], fields: string }} with the start and the grant, as members of the request
   */
  takeWaiting(pageCursor) {
    const start = (call) => encodeStart(call, pageCursor)
    const [from, source] = [start(this.#next), this.sourceOf(this.#next)]
    const fields = from + encodeGrant(this)
    this.fetched = null // the next request asks for another
    const calls = this.waiting.filter((call) => start(call) === from && this.sourceOf(call) === source)
    this.waiting = this.waiting.filter((call) => !calls.includes(call))
    for (const call of calls) {
      call.since = sinceOf(call, pageCursor)
      if (this.early.has(call)) this.early.set(call, new Map())
      if (call.since && !this.position.cursor) this.position.set(call.since)
    }
    return { calls, fields }
  }

  /** Have calls wait for the next connection. If an earlier one stands, they share what its resume brings. */
  wait(calls) {
    this.waiting.push(...calls)
    if (!this.wasGranted) return
    for (const call of calls) if (!hasStart(call)) this.finish(call, {})
  }

  /** Take the waiting calls that one grant, or its function, is for. */
  takeWith(source) {
    const taken = this.waiting.filter((call) => this.sourceOf(call) === source)
    this.waiting = this.waiting.filter((call) => !taken.includes(call))
    return taken
  }

  /** Keep a delivery for calls without an answer. Only a replay may belong to one that is not new. */
  collect(offset, event, isNew) {
    for (const [call, came] of this.early) {
      if (hasStart(call) ? offset !== undefined : isNew) came?.set(offset ?? Symbol(), event)
    }
  }

  /** Drop what came for calls without an answer: an earlier subscription brought it, and a gap follows. */
  forgetEarly() {
    for (const came of this.early.values()) came?.clear()
  }

  /**
   * Hand over what came for a call, now that the server has answered it. Live messages may have come before a replay:
   * the log's order decides.
   */
  finish(call, { recovered }) {
    const { since, last, handler } = call
    const came = [...(this.early.get(call) ?? [])]
    const isServed = this.#isServed(handler)
    this.early.delete(call)
    let wanted = isServed ? [] : came
    if (hasStart(call)) {
      // What was replayed is older than what the others without an answer have asked for.
      for (const [other, came] of this.early) if (!hasStart(other)) came?.clear()
      came.sort(([a], [b]) => a - b)
      wanted = since ? came.filter(([offset]) => recovered === true && isAfter(offset, since)) : came.slice(-last)
    }
    for (const [, event] of wanted) {
      if (!handler || !this.holders.get(handler)?.has(call)) return // taken back by the handler itself
      guard(handler, event)
    }
  }
}

const hasStart = ({ since, last }) => Boolean(since || last)

function sinceOf({ since, last, isEarly }, pageCursor) {
  return since || (isEarly && last === undefined ? pageCursor : '')
}

/** Write where a subscription starts. `last` says that the client knows of resets, even if it is 0. */
function encodeStart(call = {}, pageCursor) {
  const since = sinceOf(call, pageCursor)
  return since ? encodeSince(since) : `,"last":${call.last ?? 0}`
}
