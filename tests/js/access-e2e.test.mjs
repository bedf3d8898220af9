/**
 * Tests against a real server at DWSPS_ACCESS_URL, with its SignedToken and the policy `Members` of tests/wire/policies.py. DWSPS_CREDENTIALS has
 * `short`, tokens of one user that are valid for 10 and 12 seconds, a `long` one, and the user's `grant` for orders.42.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { connect, next, open, record, until, WebSocket } from './helpers.mjs'

const { DWSPS_ACCESS_URL: url, DWSPS_CREDENTIALS: given = '{}' } = process.env
const { short, long, grant } = JSON.parse(given)
const real = (name, run) => test(name, { skip: url ? false : 'DWSPS_ACCESS_URL is not set', timeout: 30_000 }, run)

real('a token is renewed again and again on one connection, which ends if nothing renews it', async (t) => {
  let calls = 0
  const renewing = await open(t, url, { token: () => [...short, long][Math.min(calls++, short.length)] })
  const fixed = await open(t, url, { token: short.at(-1) })
  const closes = record(renewing, 'close')
  const ended = next(fixed, 'close') // after the first token of the other has expired
  const complained = next(fixed, 'error')
  const { code, reason, willReconnect } = await ended
  assert.deepEqual([code, willReconnect, fixed.state], [4001, false, 'closed'])
  assert.equal((await complained).code, 'unauthorized')
  assert.ok(reason)
  await renewing.subscribe(`members.${randomUUID()}`)
  assert.deepEqual([closes, renewing.state, calls], [[], 'open', 3])
})

real('a forged token closes a client for good, or is replaced by a better one', async (t) => {
  const forged = `${long.slice(0, -1)}${long.endsWith('A') ? 'B' : 'A'}`
  const { code, willReconnect } = await next(connect(t, url, { token: forged }), 'close')
  assert.deepEqual([code, willReconnect], [4001, false])
  const tokens = [forged, long]
  const client = await open(t, url, { token: async () => tokens.shift() })
  await client.subscribe('members.only')
})

real('without a token the policy refuses what is for members, and a token lets them in', async (t) => {
  await assert.rejects((await open(t, url)).subscribe('members.only'), { code: 'forbidden' })
  await (await open(t, url, { token: long })).subscribe('members.only')
})

real('a grant opens its topic, to its user, and no other', async (t) => {
  const client = await open(t, url, { token: long })
  const got = []
  await client.subscribe('orders.42', ({ message }) => got.push(message), { grant: async () => grant })
  await client.publish('orders.42.paid', 1)
  await until(() => got.length)
  assert.deepEqual(got, [1])
  await assert.rejects(client.subscribe('orders.43', null, { grant }), { code: 'forbidden' })
  await assert.rejects((await open(t, url)).subscribe('orders.42', null, { grant }), { code: 'forbidden' })
})

real('after a break, token and grant are sent again, and what was missed arrives', async (t) => {
  const sockets = []
  class Cuttable extends WebSocket {
    constructor(...args) {
      super(...args)
      sockets.push(this)
    }
  }
  const other = await open(t, url, { token: long })
  const client = await open(t, url, { token: async () => long, WebSocket: Cuttable })
  const got = []
  const resets = record(client, 'reset')
  const handler = ({ message }) => got.push(message)
  await client.subscribe('orders.42', handler, { grant })
  await client.subscribe('orders.42.paid', handler, { grant: async () => grant })
  await client.subscribe('members.x', handler)
  const lost = next(client, 'close')
  const opened = next(client, 'open')
  sockets[0].terminate()
  await lost
  await other.publish('orders.42', 1)
  await other.publish('members.x', 2)
  await other.publish('orders.42.paid', 3)
  await opened
  assert.deepEqual([got.toSorted(), resets, sockets.length], [[1, 2, 3, 3], [], 2])
})

real('a subscription that the policy ends says so, and the others go on', async (t) => {
  const client = await open(t, url, { token: long })
  const got = []
  await client.subscribe('members.x', ({ message }) => got.push(message))
  const end = await new Promise((onUnsubscribed) => client.subscribe('brief', null, { onUnsubscribed }))
  assert.deepEqual([end.topic, end.code], ['brief', 'forbidden'])
  assert.match(end.reason, /the time is up/)
  assert.deepEqual(client.subscriptions, ['members.x'])
  await client.publish('members.x', 1)
  assert.deepEqual(got, [1])
  await assert.rejects(client.subscribe('brief'), { code: 'forbidden' })
})
