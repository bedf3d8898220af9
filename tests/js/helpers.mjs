import WebSocket from 'ws'
import { PSClient } from '../../dwsps_channels/static/dwsps_channels/dwsps.js'
import { OldServer, TestServer } from './servers.mjs'

export { PSClient, PSError } from '../../dwsps_channels/static/dwsps_channels/dwsps.js'
export { WebSocket }

/** Node's functions, which a test's fake clock replaces in the global object. */
const { setTimeout, clearTimeout } = globalThis
const { random: realRandom } = Math
const DEADLINE = 20_000 // a busy machine may take seconds for what usually takes milliseconds

/** Wait until a condition holds, checked on every turn of the loop. */
export async function until(holds, what = holds.toString()) {
  const end = Date.now() + DEADLINE
  while (!holds()) {
    if (Date.now() > end) throw new Error(`never came true: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

/** Wait until everything in flight has arrived: send a frame to the server and await its ack. */
export const settle = (client) => client.publish('settle', null)

/** Await the next value of an event. */
export function next(client, event) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`'${event}' never came`)), DEADLINE)
    client.once(event, (value) => {
      clearTimeout(late)
      resolve(value)
    })
  })
}

/** Have the server say something that answers nothing, and wait until the client hears it. */
export async function speak(server, client, cursor) {
  const heard = next(client, 'ack')
  server.broadcast({ type: 'ack', action: 'publish', topic: 'x', id: 'x', cursor })
  await heard
}

/** Collect the values of an event from now on. */
export function record(client, event) {
  const emitted = []
  client.on(event, (value) => emitted.push(value))
  return emitted
}

export async function serve(t, Server = TestServer) {
  const server = await new Server().start()
  t.after(() => server.kill().catch(() => {}))
  return server
}

export const serveOld = (t) => serve(t, OldServer)

/** Make a client that reconnects soon, and is closed after the test. */
export function connect(t, url, options = {}) {
  const client = new PSClient(url.url ?? url, { WebSocket, minDelay: 5, maxDelay: 20, ...options })
  t.after(() => client.close())
  return client
}

export async function open(t, server, options) {
  const client = connect(t, server, options)
  await next(client, 'open')
  return client
}

/**
 * Replace the clock until the test ends by one that runs on `tick`; sockets stay real. Node's mock will not do: if ws
 * makes a timer under one mock and clears it under the next, another timer is lost.
 */
export function clock(t, random = 1) {
  const due = new Map()
  let now = 0
  let looks = 0
  globalThis.setTimeout = (act, delay, ...values) => {
    const timer = {}
    due.set(timer, { at: now + delay, act: () => act(...values) })
    return timer
  }
  globalThis.clearTimeout = (timer) => due.delete(timer) || clearTimeout(timer)
  Math.random = () => random
  performance.now = () => now + ++looks / 1e6 // no two looks show the same time, as on a real clock
  t.after(() => {
    Object.assign(globalThis, { setTimeout, clearTimeout })
    Math.random = realRandom
    delete performance.now // its own is the prototype's
  })
  return {
    tick(time) {
      const end = now + time
      for (;;) {
        const [next] = [...due].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)
        if (!next) break
        due.delete(next[0])
        now = next[1].at
        next[1].act()
      }
      now = end
    },
  }
}
