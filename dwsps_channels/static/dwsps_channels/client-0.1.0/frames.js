const utf8 = new TextDecoder('utf-8', { fatal: true })

/** The strings that the client relies on, by type of frame: the first is required, the others are optional. */
const STRINGS = new Map([
  ['publish', ['topic', 'context']],
  ['ack', ['action', 'topic', 'cursor']],
  ['error', ['code', 'reason', 'action', 'topic', 'cursor']],
  ['reset', ['cursor']],
  ['unsubscribed', ['topic', 'code', 'reason']],
])

/** If an error with one of these codes names no request, the server is about to close the connection because of it. */
const CLOSING_ERRORS = new Set(['unavailable', 'unauthorized', 'forbidden', 'rate_limited'])

/**
 * Write a request. A resume or an authenticate has no topic.
 * @param {string} fields  more members, as JSON with a leading comma
 */
export function encodeRequest({ action, topic, fields = '' }, id) {
  const named = topic === undefined ? '' : `,"topic":${JSON.stringify(topic)}`
  return `{"type":"${action}","id":${id}${named}${fields}}`
}

/**
 * Write a message as JSON.
 * @throws {TypeError} it has no JSON representation
 */
export function encodeMessage(message) {
  const text = JSON.stringify(message)
  if (text === undefined) throw new TypeError(`${typeof message} is not a JSON value`)
  return text
}

/**
 * Read a frame, from any server.
 * @param {string | ArrayBuffer} data
 * @returns {{ text: string, frame: object }}
 * @throws {Error} it is no frame of the protocol
 */
export function decode(data) {
  const text = typeof data === 'string' ? data : utf8.decode(data)
  const frame = JSON.parse(text)
  check(frame)
  return { text, frame }
}

function check(frame) {
  const [required, ...optional] = STRINGS.get(frame?.type) ?? ['type']
  if (typeof frame?.[required] !== 'string') throw new TypeError(`no ${required}`)
  for (const name of optional) {
    if (frame[name] !== undefined && typeof frame[name] !== 'string') throw new TypeError(`${name} is not a string`)
  }
  if (frame.type === 'expiring' && typeof frame.expiresIn !== 'number') throw new TypeError('expiresIn is not a number')
}

/** Whether an error is about the connection, not about a request. */
export function isAboutConnection({ type, code, id, action, topic }) {
  const namesNoRequest = id == null && action === undefined && topic === undefined
  return type === 'error' && namesNoRequest && CLOSING_ERRORS.has(code)
}
