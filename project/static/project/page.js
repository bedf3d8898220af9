/** The page: two forms, a connection and a log. */

import { inexact, read } from './json.js';
import { Log, element } from './log.js';

const { url, script } = document.body.dataset
const find = (id) => document.getElementById(id)

const HUES = 8 // as many as page.css has
const ANNOUNCE_EVERY = 1000 // ms; a screen reader needs time to speak

/** What a close code says of the user, in words. */
const CLOSED = {
  4001: 'the server does not know you any more: log in, and load the page again',
  4003: 'the server does not let you in any more',
}

const log = new Log(find('log'), showLog)

/** What is subscribed to, or will be once there is a connection: topic -> its chip and count. */
const subscriptions = new Map()

let PSClient
let client = null // null while closed by the user, and before the script is here

// Connection

/** A websocket that the page can cut, as a lost network would. */
class CuttableSocket extends WebSocket {
  static isCut = false
  static current = null

  constructor(address) {
    if (CuttableSocket.isCut) throw new Error('cut by you')
    super(address)
    CuttableSocket.current = this
  }
}

let missed = 0 // messages of the last break that came afterwards
let lost = [] // topics of the last reset

function connect() {
  const before = client
  const mine = new PSClient(url, { WebSocket: CuttableSocket })
  client = mine
  before?.close()
  find('state-url').textContent = mine.url
  showState('connecting')
  const on = (event, listener) => mine.on(event, (...details) => mine === client && listener(...details))
  on('open', ({ reconnected }) => {
    showState('open', reconnected ? recovery() : '')
    if (reconnected) for (const subscription of subscriptions.values()) pending(subscription, false)
    log.add({ kind: 'connection', text: ['open', reconnected && recovery()].filter(Boolean).join(': ') })
  })
  on('reset', ({ topics }) => {
    lost = topics
    log.add({ kind: 'connection', text: `reset: ${recovery()}` })
    if (mine.state === 'open') showState('open', recovery())
  })
  on('close', ({ code, reason, willReconnect }) => {
    missed = 0
    lost = []
    for (const subscription of subscriptions.values()) pending(subscription, true)
    log.add({ kind: 'connection', text: `closed with ${code}${reason ? `: ${reason}` : ''}` })
    if (!willReconnect) showState('closed', [CLOSED[code] ?? `code ${code}`, reason].filter(Boolean).join(': '))
  })
  on('reconnecting', ({ attempt, delay }) => {
    if (CuttableSocket.isCut) return showState('reconnecting', 'cut by you: publish from a second window, then restore it')
    showState('reconnecting', '', { attempt, at: performance.now() + delay })
    log.add({ kind: 'connection', text: `reconnecting in ${seconds(delay)}, attempt ${attempt}` })
  })
  on('unsubscribed', ended)
  on('ack', acknowledged)
  on('message', received)
  on('error', failed)
  for (const topic of subscriptions.keys()) request(topic)
}

/** Say what became of the messages that were published during a break. */
function recovery() {
  if (lost.length) return `messages to ${lost.join(', ')} may be missing, as the server does not have them any more`
  return missed ? `${missed} missed ${missed === 1 ? 'message' : 'messages'} recovered` : 'nothing missed'
}

function cut(isCut) {
  CuttableSocket.isCut = isCut
  find('cut').textContent = isCut ? 'Restore the line' : 'Cut the line'
  if (isCut) CuttableSocket.current?.close()
  else dispatchEvent(new Event('online')) // so the client does not wait any longer
}

function disconnect() {
  const mine = client
  cut(false)
  client = null
  mine?.close()
  for (const subscription of subscriptions.values()) pending(subscription, true)
  log.add({ kind: 'connection', text: 'closed by you' })
  showState('closed', 'by you')
}

let countdown = 0

function showState(state, detail = '', next = null) {
  clearInterval(countdown)
  find('state').closest('.connection').dataset.state = state
  find('state').textContent = state
  find('state-detail').textContent = detail
  find('switch').textContent = state === 'closed' ? 'Connect' : 'Disconnect'
  // A button of its own: the other one must not turn into its opposite while somebody is about to press it.
  if (state !== 'reconnecting' && document.activeElement === find('now')) find('switch').focus()
  find('now').hidden = state !== 'reconnecting' || CuttableSocket.isCut
  find('cut').hidden = state !== 'open' && !CuttableSocket.isCut
  announce(`Connection ${state}${next ? `, attempt ${next.attempt}` : ''} ${detail}`.trim())
  if (!next) return
  const tick = () => {
    const left = next.at - performance.now()
    find('state-detail').textContent =
      left > 0 ? `in ${seconds(left)}, attempt ${next.attempt}` : `attempt ${next.attempt}, now`
  }
  tick()
  countdown = setInterval(tick, 100)
}

find('switch').addEventListener('click', () => {
  if (find('state').textContent === 'closed') connect()
  else disconnect()
})
find('now').addEventListener('click', () => dispatchEvent(new Event('online')))
find('cut').addEventListener('click', () => cut(!CuttableSocket.isCut))

// What comes in

const DONE = { subscribe: 'subscribed', unsubscribe: 'unsubscribed', publish: 'published' }

function acknowledged(frame) {
  if (frame.action === 'subscribe' && subscriptions.has(frame.topic)) pending(subscriptions.get(frame.topic), false)
  log.add({
    kind: 'ack',
    topic: frame.topic,
    text: DONE[frame.action] ?? frame.action,
    hue: subscriptions.get(frame.topic)?.hue,
    frame,
  })
}

function received(frame) {
  const subscription = subscriptions.get(frame.context)
  const isMissed = client.state === 'reconnecting'
  const isEarlier = !isMissed && subscription?.chip.classList.contains('pending')
  if (isMissed) missed += 1
  if (subscription) {
    subscription.count += 1
    subscription.output.textContent = subscription.count
  }
  find('start').hidden = true
  const text = JSON.stringify(frame.message)
  log.add({
    kind: 'message',
    topic: frame.topic,
    context: frame.context,
    text,
    hue: subscription?.hue,
    badge: isMissed ? 'missed' : isEarlier ? 'earlier' : '',
    fromPeer: frame.fromPeerServer === true,
    frame,
  })
  announceMessage(frame.topic, text)
}

/** Take away a subscription that the server has ended, now or while the page was not connected. */
function ended({ topic, reason }) {
  const text = `the server has ended the subscription: ${reason}`
  log.add({ kind: 'connection', topic, text, hue: subscriptions.get(topic)?.hue })
  removeChip(topic)
  say('subscribe', `${topic}: ${text}`, 'bad')
}

function failed(error) {
  log.add({ kind: 'error', topic: error.topic, text: explain(error) })
}

function explain(error) {
  const text = error.reason ?? error.message ?? String(error)
  return error.code ? `${error.code}: ${text}` : text
}

// Subscriptions

function subscribe(topic, last) {
  if (subscriptions.has(topic)) {
    say('subscribe', `you are subscribed to ${topic} already`)
    return
  }
  addChip(topic)
  request(topic, last)
}

/** Ask the server for a subscription that the page shows, and take it back where it is refused. */
async function request(topic, last = 0) {
  const asked = client
  const subscription = subscriptions.get(topic)
  if (!asked) {
    say('subscribe', `${topic} will be subscribed to once you connect`)
    return
  }
  say('subscribe', '')
  try {
    await asked.subscribe(topic, null, { last })
    done('subscribe')
  } catch (error) {
    // Disconnected, or unsubscribed from meanwhile: that was the user's word, not the server's.
    if (asked !== client || subscriptions.get(topic) !== subscription) return
    removeChip(topic)
    say('subscribe', explain(error), 'bad')
  }
}

async function unsubscribe(topic) {
  removeChip(topic)
  say('subscribe', '')
  try {
    await client?.unsubscribe(topic)
  } catch (error) {
    say('subscribe', explain(error), 'bad')
  }
}

function addChip(topic) {
  const used = new Set([...subscriptions.values()].map(({ hue }) => hue))
  const free = Array.from({ length: HUES }, (_, hue) => String(hue)).find((hue) => !used.has(hue))
  const hue = free ?? String(subscriptions.size % HUES)

  const chip = element('li', {})
  chip.dataset.hue = hue
  chip.dataset.topic = topic
  const output = element('output', { textContent: '0', title: 'messages so far' })
  const remove = element('button', { type: 'button', textContent: '×', title: 'Unsubscribe' })
  remove.setAttribute('aria-label', `Unsubscribe from ${topic}`)
  remove.addEventListener('click', () => {
    const next = (chip.nextElementSibling ?? chip.previousElementSibling)?.querySelector('button')
    unsubscribe(topic)
    ;(next ?? find('subscribe-topic')).focus() // the focused button is gone: stay in the neighbourhood
  })
  chip.append(element('code', { textContent: topic }), output, remove)
  find('subscriptions').append(chip)

  const subscription = { chip, output, hue, count: 0 }
  subscriptions.set(topic, subscription)
  pending(subscription, true)
  remember()
}

function removeChip(topic) {
  subscriptions.get(topic)?.chip.remove()
  subscriptions.delete(topic)
  remember()
}

function pending({ chip }, yes) {
  chip.classList.toggle('pending', yes)
  chip.title = yes ? 'waiting for the server' : ''
}

/** Keep the subscriptions in the address: a reload and a second window have them too. */
function remember() {
  find('no-subscriptions').hidden = subscriptions.size > 0
  const here = new URL(location.href)
  here.search = subscriptions.size ? `?topics=${[...subscriptions.keys()].map(encodeURIComponent).join(',')}` : ''
  here.hash = ''
  history.replaceState(null, '', here)
  find('second').href = here.href
}

function remembered() {
  const topics = /[?&]topics=([^&]*)/.exec(location.search)?.[1] ?? ''
  try {
    return new Set(topics.split(',').map(decodeURIComponent).filter(Boolean))
  } catch {
    return new Set() // somebody wrote that address by hand
  }
}

find('subscribe').addEventListener('submit', (event) => {
  event.preventDefault()
  const field = find('subscribe-topic')
  const topic = field.value.trim()
  const last = Number(find('subscribe-last').value)
  if (!topic) say('subscribe', 'a topic is needed, for example news', 'bad')
  else if (!(Number.isInteger(last) && last >= 0)) say('subscribe', 'earlier messages: a whole number, 0 or more', 'bad')
  else subscribe(topic, last)
  field.select()
})

// Publishing

async function publish() {
  const topic = find('publish-topic').value.trim()
  const field = find('publish-message')
  say('publish', '')
  if (!topic) {
    say('publish', 'a topic is needed, for example news.uk', 'bad')
    find('publish-topic').focus()
    return
  }
  const { value, fault } = read(field.value)
  if (fault) {
    refuse(field, fault)
    return
  }
  accept(field)
  if (!client) {
    say('publish', 'not connected: press Connect first', 'bad')
    return
  }
  const began = performance.now()
  if (find('state').textContent !== 'open') say('publish', 'waiting for the connection')
  try {
    await client.publish(topic, value)
    say('publish', `acknowledged in ${(performance.now() - began).toFixed(1)} ms`, 'good')
    done('publish')
  } catch (error) {
    say('publish', explain(error), 'bad')
  }
}

/** Say what is wrong and where, show it, and put the caret there. */
function refuse(field, fault) {
  const box = find('publish-fault')
  const place = element('strong', { textContent: `line ${fault.line}, column ${fault.column}: ` })
  const shown = element('pre', { textContent: `${fault.excerpt}\n${' '.repeat(fault.pointer)}^`, ariaHidden: 'true' })
  box.dataset.tone = 'bad'
  box.replaceChildren(place, fault.reason, shown)
  if (fault.quoted) {
    const shortened = fault.quoted.length > 40 ? `${fault.quoted.slice(0, 40)}…` : fault.quoted
    const fix = element('button', { type: 'button', className: 'plain', textContent: `Make it a string: ${shortened}` })
    fix.addEventListener('click', () => write(fault.quoted))
    box.append(fix)
  }
  field.setAttribute('aria-invalid', 'true')
  field.blur() // a textarea scrolls to its caret only when it takes the focus
  field.setSelectionRange(fault.offset, fault.offset)
  field.focus()
}

function accept(field) {
  const box = find('publish-fault')
  const changed = inexact(field.value)
  field.removeAttribute('aria-invalid')
  box.dataset.tone = 'hint'
  box.replaceChildren(
    changed ? `JavaScript holds ${changed.written} as ${changed.sent}: that is what this page sends.` : '',
  )
}

function write(text) {
  const field = find('publish-message')
  field.value = text
  field.dispatchEvent(new Event('input'))
  field.focus()
  field.setSelectionRange(text.length, text.length)
}

find('publish').addEventListener('submit', (event) => {
  event.preventDefault()
  publish()
})
find('publish-message').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.altKey || event.isComposing) return
  event.preventDefault()
  find('publish').requestSubmit()
})
find('publish-message').addEventListener('input', (event) => {
  event.target.removeAttribute('aria-invalid')
  find('publish-fault').replaceChildren()
})
find('examples').addEventListener('click', (event) => {
  if (event.target.matches('button')) write(event.target.textContent)
})

// The log

function showLog() {
  for (const button of find('kinds').children)
    button.querySelector('output').textContent = log.counts[button.dataset.kind]
  const hidden = hiddenKinds()
  const visible = [...find('log').children].some((row) => !hidden.includes(row.dataset.kind))
  find('log-note').textContent = log.paused
    ? `Paused. ${log.waiting} waiting.`
    : visible
      ? log.size === log.limit
        ? `The last ${log.limit} entries.`
        : ''
      : log.size
        ? 'No entries of the selected kinds.'
        : 'Nothing yet. New entries appear here, the newest on top.'
}

function hiddenKinds() {
  return [...find('kinds').children]
    .filter((button) => button.ariaPressed === 'false')
    .map((button) => button.dataset.kind)
}

find('kinds').addEventListener('click', (event) => {
  const button = event.target.closest('button')
  if (!button) return
  button.ariaPressed = String(button.ariaPressed !== 'true')
  log.hide(hiddenKinds())
})
find('pause').addEventListener('click', (event) => {
  const button = event.currentTarget
  log.pause(!log.paused)
  button.ariaPressed = String(log.paused)
  button.textContent = log.paused ? 'Resume' : 'Pause'
  showLog()
})
find('clear').addEventListener('click', () => log.clear())

// First steps

function done(step) {
  find('start').querySelector(`[data-step="${step}"]`).classList.add('done')
}

function openSecond(event) {
  done('second')
  // Beside this one where there is room for two; else the link opens a tab, as links do.
  if (screen.availWidth < 1000 || event.ctrlKey || event.metaKey || event.shiftKey) return
  const width = Math.round(screen.availWidth / 2)
  const features = `popup,width=${width},height=${screen.availHeight},left=${(screen.availLeft ?? 0) + width},top=${screen.availTop ?? 0}`
  if (window.open(find('second').href, '_blank', features)) event.preventDefault()
}

find('second').addEventListener('click', openSecond)
find('step-second').addEventListener('click', () => find('second').click())
find('step-subscribe').addEventListener('click', () => {
  find('subscribe-topic').value = 'news'
  find('subscribe').requestSubmit()
})
find('step-publish').addEventListener('click', () => {
  find('publish-topic').value = 'news.uk'
  write('"Hello"')
  find('publish').requestSubmit()
})

for (const button of document.querySelectorAll('[data-copy]')) {
  button.addEventListener('click', async () => {
    const code = find(button.dataset.copy)
    getSelection().selectAllChildren(code)
    try {
      await navigator.clipboard.writeText(code.textContent)
      button.textContent = 'Copied'
    } catch {
      button.textContent = 'Selected: copy it' // no clipboard on plain HTTP
    }
  })
}

// Words

function say(form, text, tone = '') {
  const outcome = find(`${form}-outcome`)
  outcome.textContent = text
  outcome.dataset.tone = tone
}

function announce(text) {
  find('announce').textContent = text
}

let unspoken = 0

function announceMessage(topic, text) {
  unspoken += 1
  if (unspoken > 1) return
  announce(`${topic}: ${text.slice(0, 200)}`)
  setTimeout(() => {
    if (unspoken > 1) announce(`${unspoken - 1} more messages`)
    unspoken = 0
  }, ANNOUNCE_EVERY)
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`
}

// Start

showLog()
for (const topic of remembered()) addChip(topic)
// A keyboard that covers half the screen before anything was read helps nobody.
if (matchMedia('(hover: hover) and (pointer: fine)').matches) {
  const field = find(subscriptions.size ? 'publish-message' : 'subscribe-topic')
  field.focus({ preventScroll: true })
  field.select()
}
try {
  ;({ PSClient } = await import(script))
  connect()
} catch (error) {
  showState('closed', `${script} did not load`)
  failed(error)
  find('switch').hidden = true
}
