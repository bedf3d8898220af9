import { PSError } from './errors.js';

/**
 * At most so many bytes go into one frame, which servers read as a whole: those of each topic, and 3; for its grant those
 * of both, and 6.
 */
const MAX_BYTES = 32_000

const utf8 = new TextEncoder()

/**
 * Choose the subscriptions that one request can resume: those with the same cursor as the first, as many as fit.
 * @param {Iterable<Subscription>} subscriptions  in the order in which they are to be resumed
 * @param {(subscription: Subscription) => string} sinceOf  the cursor of one
 */
export function takeTogether(subscriptions, sinceOf) {
  const together = []
  let since = ''
  let size = 0
  for (const subscription of subscriptions) {
    since ||= sinceOf(subscription)
    if (sinceOf(subscription) !== since) continue
    const { length } = utf8.encode(subscription.topic)
    const { grant } = subscription
    size += length + 3 + (grant ? length + utf8.encode(grant).length + 6 : 0)
    if (together.length && size > MAX_BYTES) break
    together.push(subscription)
  }
  return { since, together }
}

/** Write the cursor from which a request resumes. */
export function encodeSince(since) {
  return `,"since":${JSON.stringify(since)}`
}

/** Write the topics of a resume, and the grants of those that have one. */
export function encodeTopics(together) {
  const granted = together.filter(({ grant }) => grant)
  const grants = Object.fromEntries(granted.map(({ topic, grant }) => [topic, grant]))
  const topics = `,"topics":${JSON.stringify(together.map(({ topic }) => topic))}`
  return granted.length ? `${topics},"grants":${JSON.stringify(grants)}` : topics
}

/** Write the grant of a subscription, if it has one. */
export function encodeGrant({ grant }) {
  return grant && `,"grant":${JSON.stringify(grant)}`
}

/**
 * Read what the ack of a resume, or of a subscribe in its place, says of one topic.
 * @returns {{ recovered?: boolean, error?: PSError }} both are absent if it says nothing
 */
export function resultOf({ action, recovered: isRecovered, topics }, topic) {
  if (action === 'subscribe') return { recovered: isRecovered === true }
  const { recovered, error } = Object(Object.hasOwn(Object(topics), topic) ? topics[topic] : null)
  if (error) return { error: refusal(Object(error), topic) }
  return typeof recovered === 'boolean' ? { recovered } : {}
}

/** The error of one topic's subscription, as a refused subscribe has it. */
export function refusal({ code, reason, retryable }, topic) {
  return new PSError(String(code), String(reason), { retryable: retryable === true, action: 'subscribe', topic })
}
