/** Servers refuse a longer one; a shorter one that they do not know leads to a reset. */
export const LONGEST_CURSOR = 128

/**
 * Resolve what the user gave to the address of a websocket, against the page if there is one.
 * @param {string | URL} url  ws(s), http(s), or relative to the page
 * @returns {string} an absolute ws(s) URL without a fragment
 * @throws {TypeError} the URL is missing or malformed, or has another scheme
 */
export function resolveAddress(url) {
  const page = globalThis.location?.href
  let resolved
  try {
    if (url == null) throw new TypeError('it is missing') // URL would read it as the relative path "undefined"
    resolved = new URL(url, page)
  } catch (cause) {
    const hint = page ? '' : ': without a page to resolve it against, it begins with ws:// or wss://'
    throw new TypeError(`'${url}' is no URL of a websocket${hint}`, { cause })
  }
  resolved.protocol = resolved.protocol.replace(/^http/, 'ws')
  resolved.hash = '' // WebSocket throws for a fragment
  if (!/^wss?:$/.test(resolved.protocol)) throw new TypeError(`'${resolved.href}' does not begin with ws:// or wss://`)
  return resolved.href
}

/**
 * Take the page's cursor, `since`, out of the query of an address.
 * @param {string} address  an absolute URL
 * @returns {{ address: string, since: string }} the address without `since`, and the cursor; an empty text if the query has no `since`
 */
export function takeCursor(address) {
  const [path, query = ''] = address.split(/\?(.*)/s)
  const since = new URLSearchParams(query).get('since') ?? ''
  const rest = query.split('&').filter((parameter) => !parameter.startsWith('since=')).join('&')
  return { address: rest ? `${path}?${rest}` : path, since: since.slice(0, LONGEST_CURSOR) }
}
