/** A test against the real server at DWSPS_LIMITED_URL, with a RATE_LIMIT of 50 frames at once and 50 a second. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { connect, next, record, until, WebSocket } from './helpers.mjs'

const url = process.env.DWSPS_LIMITED_URL

test('all subscriptions are acknowledged at "open", although the server limits the rate', { skip: !url, timeout: 60_000 }, async (t) => {
  const sockets = []
  class Seen extends WebSocket {
    constructor(url) {
      super(url)
      sockets.push(this)
    }
  }
  const client = connect(t, url, { WebSocket: Seen, minDelay: 100, maxDelay: 400 })
  const closes = record(client, 'close')
  const errors = record(client, 'error')
  const got = []
  const run = randomUUID()
  const topics = Array.from({ length: 200 }, (_, n) => `${run}.${n}`)
  await Promise.all(topics.map((topic) => client.subscribe(topic, ({ topic }) => got.push(topic))))
  const opened = next(client, 'open')
  sockets.at(-1).terminate()
  await opened
  // Each of them delivers what another client sends, also the first and the last.
  const other = connect(t, url, { minDelay: 100, maxDelay: 400 })
  const sent = [topics[0], topics[100], topics.at(-1)]
  for (const topic of sent) await other.publish(topic, 1)
  await until(() => got.length === sent.length)
  assert.deepEqual(got, sent)
  assert.deepEqual(closes.map(({ code }) => code), [1006])
  assert.ok(errors.length > 0, 'there was a limit')
  assert.deepEqual([...new Set(errors.map(({ code }) => code))], ['rate_limited'])
})
