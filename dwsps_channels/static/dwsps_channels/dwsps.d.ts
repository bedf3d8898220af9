export type Action = 'subscribe' | 'unsubscribe' | 'publish'

/** A message as handlers and 'message' listeners get it. `T` is your claim about `message`: nothing checks it. */
export interface PSMessage<T = unknown> {
  type: 'publish'
  /** The topic of the publication. */
  topic: string
  /** The topic of the subscription that matched: `topic`, or one of its parents. */
  context: string
  message: T
  /** RFC 3339; the publisher's, otherwise the server's. A dwsps 1.0.1 server relays the publisher's, or sends none. */
  timestamp: string
  /** Whether another server forwarded it. */
  fromPeerServer?: boolean
  /** Its place in the server's log, which is the same for all copies; absent if the server keeps none. */
  offset?: number
}

export interface PSAck<A extends Action = Action> {
  type: 'ack'
  action: A
  topic: string
  timestamp: string
  /** Absent if the server is dwsps 1.0.1, or if the client made the ack of an `unsubscribe` itself. */
  id?: number | string
  /** Of a `subscribe` or `unsubscribe`: how far the subscriptions have been handed the server's log. */
  cursor?: string
  /** Of a `subscribe` with `since`: whether nothing is missing. */
  recovered?: boolean
  /** Of a `publish`: the place of the message in the server's log. */
  offset?: number
}

/**
 * A token or a grant, or a function that returns one or a promise of one, each time that the client sends it. An empty
 * text, null or undefined stand for none.
 */
export type PSCredential = string | (() => string | null | undefined | PromiseLike<string | null | undefined>)

/** The server has ended a subscription that it had acknowledged. The client does not ask for it again by itself. */
export interface PSUnsubscribed {
  topic: string
  code: ServerErrorCode | (string & {})
  /** For people. */
  reason: string
}

/** Where a subscription starts, with `since` or `last` but not both; what allows it; and what follows a loss or an end. */
export interface PSSubscribeOptions {
  /** A cursor: what was published after it comes first. An empty one counts as none. */
  since?: string | null
  /** How many of the latest messages come first, as far as the server keeps them. */
  last?: number | null
  /** Called if messages may be missing: load your state again. */
  onReset?: (event: { topic: string }) => unknown
  /** What allows the subscription, apart from the server's policy: what `{% dwsps_grant %}` or `make_grant` wrote. */
  grant?: PSCredential | null
  /** Called if the server ends the subscription. */
  onUnsubscribed?: (event: PSUnsubscribed) => unknown
}

/**
 * The return value of `subscribe`: a promise of the ack, and a handle. An async function that returns it gives its
 * caller the ack alone, as with any promise; the ack has `unsubscribe` as well.
 */
export interface PSSubscription extends Promise<PSAck<'subscribe'> & Pick<PSSubscription, 'unsubscribe'>> {
  readonly topic: string
  /**
   * Take back this one call. Other calls keep their handlers; the client unsubscribes from the topic after the last.
   * Call it at any time, and as often as you like.
   */
  unsubscribe(): Promise<PSAck<'unsubscribe'>>
}

/** The server's codes (docs/reference/protocol.md). */
export type ServerErrorCode =
  | 'invalid_json'
  | 'invalid_message'
  | 'invalid_topic'
  | 'message_too_deep'
  | 'message_too_large'
  | 'too_many_subscriptions'
  | 'forbidden'
  | 'unauthorized'
  | 'rate_limited'
  | 'unavailable'

/** The client's own codes (docs/reference/javascript.md). It also uses `invalid_message` and `invalid_topic`. */
export type ClientErrorCode =
  | 'connection_lost'
  | 'timeout'
  | 'queue_full'
  | 'cancelled'
  | 'closed'
  | 'invalid_frame'
  | 'no_grant'
  | 'no_token'

export class PSError extends Error {
  constructor(
    code: string,
    reason: string,
    details?: { retryable?: boolean; action?: Action | 'authenticate'; topic?: string; cause?: unknown },
  )
  readonly name: 'PSError'
  /** Servers may add codes: if you do not know one, rely on `retryable`. */
  readonly code: ServerErrorCode | ClientErrorCode | (string & {})
  readonly reason: string
  /** The same call may succeed later. */
  readonly retryable: boolean
  /** The call that failed; absent if the error is about the connection. */
  readonly action?: Action | 'authenticate'
  readonly topic?: string
}

/**
 * The value of 'open', which comes when the server has answered for every earlier subscription: it has acknowledged it,
 * or refused it for good, which is an 'error'. So whatever is published from now on arrives.
 */
export interface PSOpen {
  /** False the first time, then true. */
  reconnected: boolean
}

export interface PSClose {
  code: number
  reason: string
  /** False if the client is closed for good. */
  willReconnect: boolean
}

/** Messages of these topics may be missing: the server could not send what was published meanwhile. */
export interface PSReset {
  topics: string[]
}

export interface PSReconnecting {
  /** 1 for the first attempt since the last stable connection. */
  attempt: number
  /** Milliseconds until the attempt. */
  delay: number
  /** The close code and reason of the failure. */
  code: number
  reason: string
}

export interface PSEvents {
  open: PSOpen
  close: PSClose
  ack: PSAck
  message: PSMessage<any>
  error: PSError
  reconnecting: PSReconnecting
  reset: PSReset
  unsubscribed: PSUnsubscribed
}

export type PSListener<E extends keyof PSEvents> = (event: PSEvents[E]) => unknown

export type PSHandler<T = any> = (message: PSMessage<T>) => unknown

/** The part of a WebSocket that the client uses. Browsers, Node and the `ws` package have one. */
export interface WebSocketLike {
  binaryType: any
  onopen: any
  onmessage: any
  onerror: any
  onclose: any
  send(data: string): void
  close(code?: number): void
}

export interface PSOptions {
  /** Default: `globalThis.WebSocket`. */
  WebSocket?: new (url: string) => WebSocketLike
  /**
   * Who the user is: the first frame of each connection. A function is called for each connection and before the token
   * expires. Default: none; in a page, the user of its cookies.
   */
  token?: PSCredential | null
  /**
   * For programs written for dwsps 1.0.1: handlers, 'message' and 'ack' listeners get the frame as text, and the
   * subscriptions that an 'open' listener makes replace those of its earlier run. Default: false.
   */
  dwsps1?: boolean
  /** Milliseconds that the server may take to accept a connection, or to answer a request. Default: 10000. */
  timeout?: number
  /**
   * Milliseconds of silence after which the client tests the connection. It notices a dead one after these plus
   * `timeout`. 0: no test. Default: 25000.
   */
  keepAlive?: number
  /** How many publishes may wait. Default: 1000. */
  queueSize?: number
  /** Milliseconds; the ceiling of the first delay before reconnecting. Default: 500. */
  minDelay?: number
  /** Milliseconds; the ceiling of the last one. Default: 20000. */
  maxDelay?: number
}

export type PSState = 'connecting' | 'open' | 'reconnecting' | 'closed'

/** An address, or a function that returns one for each connection. A path is resolved against the page. */
export type PSLocation = string | URL | (() => string | URL | PromiseLike<string | URL>)

export class PSClient {
  /** Connect at once. Throws a TypeError if there is no WebSocket, an option is bad, or the URL cannot be resolved. */
  constructor(url: PSLocation, options?: PSOptions)

  /** The resolved address; empty before a function has returned the first. */
  readonly url: string
  readonly state: PSState
  /** The topics subscribed to, including those that wait for a connection or an ack. */
  readonly subscriptions: string[]

  /**
   * How far the subscriptions have been handed the server's log: a value for `since`. Empty if the server keeps no log,
   * or has not answered yet.
   */
  readonly cursor: string

  on<E extends keyof PSEvents>(event: E, listener: PSListener<E>): this
  once<E extends keyof PSEvents>(event: E, listener: PSListener<E>): this
  off<E extends keyof PSEvents>(event: E, listener: PSListener<E>): this

  /** Rejects with a PSError, as `unsubscribe` and `publish` do. You need not handle these rejections. */
  subscribe<T = any>(topic: string, handler?: PSHandler<T> | null, options?: PSSubscribeOptions): PSSubscription
  /** Drop all handlers of a topic, whoever attached them. */
  unsubscribe(topic: string): Promise<PSAck<'unsubscribe'>>
  /** `message` is any JSON value, encoded at once. */
  publish(topic: string, message: unknown): Promise<PSAck<'publish'>>

  /** Close for good. Calls without an answer reject with `closed`. */
  close(): void
}

export default PSClient
