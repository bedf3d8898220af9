export type Action = 'subscribe' | 'unsubscribe' | 'publish'

/** A message, as a handler and a 'message' listener get it. `T` is your word for what `message` holds: nothing checks it. */
export interface PSMessage<T = unknown> {
  type: 'publish'
  /** Where it was published. */
  topic: string
  /** The subscription because of which it came: `topic`, or one of its parents. */
  context: string
  message: T
  /** The publisher's, or else the server's; RFC 3339. A dwsps 1.0.1 server relays what the publisher sent, or nothing. */
  timestamp: string
  /** It was published on another server. */
  fromPeerServer?: boolean
}

export interface PSAck<A extends Action = Action> {
  type: 'ack'
  action: A
  topic: string
  timestamp: string
  /** Absent from a dwsps 1.0.1 server, and from an ack that `unsubscribe` gives itself. */
  id?: number | string
}

/**
 * What `subscribe` returns: a promise of the ack, and a handle. An async function that returns it gives the ack alone,
 * as with any promise; that has `unsubscribe` as well.
 */
export interface PSSubscription extends Promise<PSAck<'subscribe'> & Pick<PSSubscription, 'unsubscribe'>> {
  readonly topic: string
  /**
   * Take back this one call. Others keep their handlers; the server is told when the last of the topic has gone.
   * It may be called at any time, and again.
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
  | 'rate_limited'
  | 'unavailable'

/** The client's own codes (docs/reference/javascript.md). It also uses `invalid_message` and `invalid_topic`. */
export type ClientErrorCode = 'connection_lost' | 'timeout' | 'queue_full' | 'cancelled' | 'closed' | 'invalid_frame'

export class PSError extends Error {
  constructor(
    code: string,
    reason: string,
    details?: { retryable?: boolean; action?: Action; topic?: string; cause?: unknown },
  )
  readonly name: 'PSError'
  /** Servers may add codes: treat one you do not know by `retryable`. */
  readonly code: ServerErrorCode | ClientErrorCode | (string & {})
  readonly reason: string
  /** The same call may succeed later. */
  readonly retryable: boolean
  /** What failed; absent where the error is about the connection. */
  readonly action?: Action
  readonly topic?: string
}

/**
 * Told when every subscription from before the connection stands: the server has acknowledged it, or refused it for
 * good, which `error` was told. So whatever is published from now on arrives.
 */
export interface PSOpen {
  /** False the first time, true ever after. */
  reconnected: boolean
}

export interface PSClose {
  code: number
  reason: string
  /** False when the client is closed for good. */
  willReconnect: boolean
}

export interface PSReconnecting {
  /** 1 for the first attempt since the last stable connection. */
  attempt: number
  /** Milliseconds until the attempt. */
  delay: number
  /** Why there is no connection. */
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
}

export type PSListener<E extends keyof PSEvents> = (event: PSEvents[E]) => unknown

export type PSHandler<T = any> = (message: PSMessage<T>) => unknown

/** What the client needs of a WebSocket: the browser's, Node's own, or the `ws` package's. */
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
   * For programs written for dwsps 1.0.1: handlers, 'message' and 'ack' listeners get the frame as text, and what an
   * 'open' listener subscribes replaces what it subscribed when it ran before. Default: false.
   */
  dwsps1?: boolean
  /** Milliseconds that the server may take to accept a connection, or to answer a call. Default: 10000. */
  timeout?: number
  /**
   * Milliseconds of silence after which the client asks the server whether it is there. A dead connection is noticed
   * after these and `timeout`. 0: never asked. Default: 25000.
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

/** An address, or what gives one for each connection. A path is resolved against the page. */
export type PSLocation = string | URL | (() => string | URL | PromiseLike<string | URL>)

export class PSClient {
  /** Connects at once. Throws a TypeError without a WebSocket, for a bad option, or where the URL cannot be resolved. */
  constructor(url: PSLocation, options?: PSOptions)

  /** The address connected to, resolved; empty before a function has given the first. */
  readonly url: string
  readonly state: PSState
  /** The topics subscribed to, those included that wait for a connection or an ack. */
  readonly subscriptions: string[]

  on<E extends keyof PSEvents>(event: E, listener: PSListener<E>): this
  once<E extends keyof PSEvents>(event: E, listener: PSListener<E>): this
  off<E extends keyof PSEvents>(event: E, listener: PSListener<E>): this

  /** Rejects with a PSError, as all three do. Unlike other promises, none of them has to be handled. */
  subscribe<T = any>(topic: string, handler?: PSHandler<T> | null): PSSubscription
  /** Drop all handlers of a topic, whoever attached them. */
  unsubscribe(topic: string): Promise<PSAck<'unsubscribe'>>
  /** `message` is any JSON value, taken as it is now. */
  publish(topic: string, message: unknown): Promise<PSAck<'publish'>>

  /** Close for good. Calls that are not answered yet reject with `closed`. */
  close(): void
}

export default PSClient
