import { PSError } from './errors.js';

/** At most so many bytes of topics, and 3 for each, go into one frame, which servers read as a whole. */
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
    size += utf8.encode(subscription.topic).length + 3
    if (together.length && size > MAX_BYTES) break
    together.push(subscription)
  }
  return { since, together }
}

/** Write the cursor from which a request resumes. */
export function encodeSince(since) {
  return `,"since":${JSON.stringify(since)}`
}

/** Write the topics of a resume. */
export function encodeTopics(together) {
  return `,"topics":${JSON.stringify(together.map(({ topic }) => topic))}`
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
