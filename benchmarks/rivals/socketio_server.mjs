// socket.io with rooms, as its documentation shows them.
//
//     node socketio_server.mjs PORT
import { createServer } from 'node:http'
import { Server } from 'socket.io'
import { contexts } from './topics.mjs'

const http = createServer()
const io = new Server(http)

io.on('connection', (socket) => {
  socket.on('subscribe', (topic, acknowledge) => {
    socket.join(topic)
    acknowledge()
  })
  socket.on('publish', ({ topic, message }) => {
    io.to(contexts(topic)).emit('publish', { topic, message })
  })
})

http.listen({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 1024 })
