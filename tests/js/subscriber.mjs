/**
 * A program that subscribes, and writes what it sees to stdout, a JSON value a line; of messages, the numbers. It reads commands from stdin:
 * `cut` breaks its connection, `publish N` publishes a number to the topic.
 *
 * usage: node subscriber.mjs URL TOPIC
 */
import { createInterface } from 'node:readline'
import { PSClient, WebSocket } from './helpers.mjs'

const [url, topic] = process.argv.slice(2)

let socket
class Cuttable extends WebSocket {
  constructor(...args) {
    super(...args)
    socket = this
  }
}

const say = (value) => console.log(JSON.stringify(value))
const client = new PSClient(url, { WebSocket: Cuttable, minDelay: 50, maxDelay: 500 })
client.on('open', () => say('open'))
client.on('close', ({ code }) => say({ close: code }))
client.on('reset', ({ topics }) => say({ reset: topics }))
client.on('error', (error) => say({ error: error.message }))
client.subscribe(topic, ({ message }) => typeof message === 'number' && say(message))

for await (const line of createInterface(process.stdin)) {
  const [command, number] = line.split(' ')
  if (command === 'cut') socket.terminate()
  else if (command === 'publish') client.publish(topic, Number(number)).then(({ offset }) => say({ published: Number(number), offset }))
}
client.close()
