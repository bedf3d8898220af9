// A broadcast server on `ws`, delivering as dwsps 1.0.1 does: for each context it looks through all clients, and
// makes the JSON anew for each that gets it.
//
//     node ws_server.mjs PORT
import { WebSocketServer } from 'ws'
import { contexts } from './topics.mjs'

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]), backlog: 1024 })
const now = () => new Date().toISOString()

function deliver({ type, topic, message }) {
  const publication = { type, timestamp: now(), topic, message }
  for (const context of contexts(topic)) {
    for (const client of server.clients) {
      if (client.topics.has(context)) client.send(JSON.stringify({ ...publication, context }))
    }
  }
}

server.on('connection', (client) => {
  client.topics = new Set()
  client.on('error', () => client.terminate())
  client.on('message', (data) => {
    const frame = JSON.parse(data)
    if (frame.type === 'subscribe') client.topics.add(frame.topic)
    else deliver(frame)
    client.send(JSON.stringify({ type: 'ack', action: frame.type, timestamp: now(), topic: frame.topic }))
  })
})
