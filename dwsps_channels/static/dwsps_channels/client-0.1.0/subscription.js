import { isAfter, Position } from './cursor.js';
import { guard } from './listeners.js';
import { encodeSince } from './resume.js';

/** What the user wants of one topic, and what the server has granted of it. */
export class Subscription {
  holders = new Map() // handler or undefined -> the calls that brought it
  waiting = [] // calls that a later request answers
  replays = new Map() // call -> what the server has replayed for it so far, as offset -> event
  asked = 0 // requests without an answer
  isResuming = false // one of them resumes it
  isLive = false // acknowledged on this connection
  wasGranted = false // acknowledged on any connection
  since = '' // the cursor to resume from; empty: that of the client
  isBroken = false // messages may be missing, and a reset is due
  position = new Position() // of the last delivery
  grants = [] // calls that brought a grant, or a function that returns one
  fetching = null // identifies the call of such a function that is not answered
  #fetched = '' // what it returned last

  constructor(topic) {
    this.topic = topic
  }

  /** Whether a resume can bring it back on this connection. */
  get isResumable() {
    return this.wasGranted && !this.isLive && !this.isBroken
  }

  /** The latest grant, or its function. A resume brings one that the server has accepted: a bad one would end all calls. */
  get #grantSource() {
    const call = this.isResumable ? this.grants.findLast(({ isGranted }) => isGranted) : this.grants.at(-1)
    return call?.grant ?? ''
  }

  /** A function that returns the grant; undefined if there is none to call. */
  get fetchGrant() {
    const source = this.#grantSource
    return typeof source === 'function' ? source : undefined
  }

  /** What allows the subscription, apart from the server's policy; empty if nothing does. */
  get grant() {
    return this.fetchGrant ? this.#fetched : this.#grantSource
  }

  set grant(fetched) {
    this.#fetched = fetched
  }

  get calls() {
    return [...this.holders.values()].flatMap((calls) => [...calls])
  }

  /** The handlers that get what is delivered now; undefined stands for calls without one. */
  get handlers() {
    const handlers = [...this.holders.keys()]
    if (!this.replays.size && !this.waiting.length) return handlers
    // What is replayed for some calls is older than what others have asked for.
    const gets = (call) => !this.replays.has(call) && (this.isLive || call.isJoined)
    return handlers.filter((handler) => [...this.holders.get(handler)].some(gets))
  }

  attach(call) {
    this.holders.set(call.handler, (this.holders.get(call.handler) ?? new Set()).add(call))
    this.waiting.push(call)
    if (call.grant) this.grants.push(call)
    if (call.since || call.last || call.isEarly) this.replays.set(call, new Map())
    else call.isJoined = this.isLive // and gets at once what the others get
  }

  /** Let go of a call; return false if it was not attached. */
  detach(call) {
    const calls = this.holders.get(call.handler)
    const wasAttached = calls?.delete(call) ?? false
    if (calls?.size === 0) this.holders.delete(call.handler)
    this.replays.delete(call)
    this.grants = this.grants.filter((other) => other !== call)
    return wasAttached
  }

  /**
   * Let go of what an 'open' listener attached when it ran before. Programs for dwsps 1.0.1 subscribe in such a
   * listener, often with a new function; here, it runs on every reconnection.
   */
  detachOlder(opening) {
    for (const call of this.calls) {
      if (call.opening && call.opening.listener === opening?.listener && call.opening !== opening) this.detach(call)
    }
  }

  /**
   * Take the waiting calls that one request can answer, those that start where the first of them does.
   * @param {string} pageCursor  where early calls start
   * @returns {{ calls: Call[], fields: string }} with the start, as members of the request
   */
  takeWaiting(pageCursor) {
    const start = (call) => encodeStart(call, pageCursor)
    const fields = start(this.waiting[0])
    const calls = this.waiting.filter((call) => start(call) === fields)
    this.waiting = this.waiting.filter((call) => !calls.includes(call))
    for (const call of calls) {
      call.since = sinceOf(call, pageCursor)
      if (!call.since && !call.last) this.replays.delete(call)
      else this.replays.get(call)?.clear() // of a connection that broke
      if (call.since && !this.position.cursor) this.position.set(call.since)
    }
    return { calls, fields }
  }

  /** Keep a delivery for the calls whose replay it may belong to. */
  collect(offset, event) {
    if (offset === undefined) return
    for (const replay of this.replays.values()) replay.set(offset, event)
  }

  /**
   * Hand over what was collected for a call, now that the server has sent all of it. Live messages may have come
   * before the replay: the log's order decides.
   */
  finishReplay(call, { recovered }) {
    const { since, last, handler } = call
    call.isJoined = true
    const replay = this.replays.get(call)
    this.replays.delete(call)
    if (!replay || !handler || (since && recovered !== true)) return
    const collected = [...replay].sort(([a], [b]) => a - b)
    const wanted = since ? collected.filter(([offset]) => isAfter(offset, since)) : collected.slice(-last)
    for (const [, event] of wanted) {
      if (!this.holders.get(handler)?.has(call)) return // taken back by the handler itself
      guard(handler, event)
    }
  }
}

function sinceOf({ since, last, isEarly }, pageCursor) {
  return since || (isEarly && last === undefined ? pageCursor : '')
}

/** Write where a subscription starts. `last` says that the client knows of resets, even if it is 0. */
function encodeStart(call = {}, pageCursor) {
  const since = sinceOf(call, pageCursor)
  return since ? encodeSince(since) : `,"last":${call.last ?? 0}`
}
