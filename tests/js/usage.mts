// Not run: what types.test.mjs has the compiler look at. Each `@ts-expect-error` is an error that must be one.
import Default, { PSClient, PSError, type PSAck, type PSMessage, type PSSubscription } from '../../dwsps_channels/static/dwsps_channels/dwsps.js'

const client: PSClient = new Default('/ws/pubsub/')
new PSClient(new URL('wss://example.org'), { WebSocket, timeout: 1, queueSize: 0, minDelay: 1, maxDelay: 2 })
new PSClient(() => '/ws/pubsub/', { keepAlive: 0, dwsps1: true })
new PSClient(async () => new URL('wss://example.org/?token=' + (await Promise.resolve('x'))))
new PSClient('/', { token: 'x' })
new PSClient('/', { token: async () => (await fetch('/token/')).text() })
new PSClient('/', { token: () => null })
// @ts-expect-error a function that gives no token
new PSClient('/', { token: () => 7 })
// @ts-expect-error a function that gives no address
new PSClient(() => 7)
// @ts-expect-error unknown option
new PSClient('/', { retries: 3 })
// @ts-expect-error no such event
client.on('connected', () => {})

client
  .on('open', ({ reconnected }) => reconnected satisfies boolean)
  .once('close', ({ code, reason, willReconnect }) => [code, reason, willReconnect] satisfies [number, string, boolean])
  .on('ack', (ack) => ack.action satisfies 'subscribe' | 'unsubscribe' | 'publish')
  .on('message', ({ topic, context, timestamp }) => [topic, context, timestamp] satisfies string[])
  .on('reset', ({ topics }) => topics.map((topic) => topic.toUpperCase()))
  .on('unsubscribed', ({ topic, code, reason }) => [topic, code, reason] satisfies string[])
  .on('reconnecting', ({ attempt, delay }) => attempt + delay)
  .on('error', (error) => {
    if (error.code === 'rate_limited' || error.code === 'a code of tomorrow') error.retryable satisfies boolean
    error.topic?.toUpperCase()
    // @ts-expect-error not every error has a topic
    error.topic.toUpperCase()
  })
client.on('open', () => {}).off('open', () => {})

interface Quote {
  price: number
}
const subscribed: PSSubscription = client.subscribe<Quote>('quotes', ({ message }) => message.price.toFixed(2))
client.subscribe('quotes', async (quote: PSMessage<Quote>) => quote.message.price)
client.subscribe('quotes')
client.subscribe('quotes', null, { last: 10, onReset: ({ topic }) => topic.toUpperCase() })
client.subscribe('quotes', ({ offset }) => offset?.toFixed(), { since: client.cursor })
client.subscribe('quotes', null, { grant: 'g', onUnsubscribed: ({ topic, reason }) => topic + reason })
client.subscribe('quotes', null, { grant: async () => 'g' })
// @ts-expect-error a grant is a string
client.subscribe('quotes', null, { grant: 7 })
// @ts-expect-error a cursor is a string
client.subscribe('quotes', null, { since: 7 })
// @ts-expect-error no such field in a Quote
client.subscribe<Quote>('quotes', ({ message }) => message.size)
// @ts-expect-error a topic is a string
client.subscribe(7)
const unknown = (message: PSMessage) => {
  // @ts-expect-error nobody said what it holds
  message.message.price
}
client.subscribe('quotes', unknown)

const subscribe: PSAck<'subscribe'> = await subscribed
subscribe.action satisfies 'subscribe'
subscribed.topic satisfies string
const gone: PSAck<'unsubscribe'> = await subscribed.unsubscribe()
gone satisfies PSAck
await (await client.subscribe('quotes')).unsubscribe()
const { action, id, offset }: PSAck<'publish'> = await client.publish('quotes', { price: 1 })
action satisfies 'publish'
id satisfies number | string | undefined
offset satisfies number | undefined
subscribe.recovered satisfies boolean | undefined
subscribe.cursor satisfies string | undefined
await client.unsubscribe('quotes')
// @ts-expect-error what would be published?
client.publish('quotes')

client.state satisfies 'connecting' | 'open' | 'reconnecting' | 'closed'
client.subscriptions satisfies string[]
client.url satisfies string
client.cursor satisfies string
// @ts-expect-error it cannot be set
client.state = 'open'
client.close()
new PSError('forbidden', 'no', { topic: 'a' }) satisfies Error
