/**
 * Where a text stops being JSON, and why, in words that help.
 *
 * Browsers differ in what `JSON.parse` says of a fault, and some give no place at all. So the verdict is
 * `JSON.parse`'s, and the place and the reason are found here.
 */

/**
 * @typedef {object} Fault
 * @property {number} offset  index into the text, in UTF-16 units, as `setSelectionRange` takes it
 * @property {number} line    from 1
 * @property {number} column  from 1, in characters
 * @property {string} excerpt what of that line is near the fault
 * @property {number} pointer index into the excerpt, in characters
 * @property {string} reason  what is wrong, without the place
 * @property {string | null} quoted  the whole text as a JSON string, where that is likely what was meant
 */

/**
 * Read a text as JSON.
 *
 * @param {string} text
 * @returns {{ value: unknown, fault: null } | { value: undefined, fault: Fault }}
 */
export function read(text) {
  try {
    return { value: JSON.parse(text), fault: null }
  } catch {
    return {
      value: undefined,
      fault: describe(text, locate(text) ?? { offset: text.length, reason: 'this is not JSON' }),
    }
  }
}

/**
 * The first integer in a valid text that JavaScript cannot hold, and what it would become: its digits would change on the way.
 *
 * @param {string} text
 * @returns {{ written: string, sent: string } | null}
 */
export function inexact(text) {
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g)) {
    if (/^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) && BigInt(token) !== BigInt(Number(token))) {
      return { written: token, sent: String(Number(token)) }
    }
  }
  return null
}

const SPACE = /[ \t\n\r]*/y
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
const WORD = /[\p{L}_$][\p{L}\p{N}_$-]*/uy
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y
const CLOSING = { '{': '}', '[': ']' }
const NAMES = { '{': 'object', '[': 'list' }
const ELSEWHERE = {
  True: 'true',
  TRUE: 'true',
  False: 'false',
  FALSE: 'false',
  None: 'null',
  NULL: 'null',
  Null: 'null',
  nil: 'null',
  undefined: 'null',
}

function match(pattern, text, at) {
  pattern.lastIndex = at
  return pattern.exec(text)?.[0] ?? ''
}

/**
 * Walk the text until it breaks RFC 8259. No recursion: a text of ten thousand brackets is only a text.
 *
 * @returns {{ offset: number, reason: string } | null} null where the text is JSON
 */
function locate(text) {
  const open = []
  let at = 0
  let expect = 'value'
  for (;;) {
    at += match(SPACE, text, at).length
    const char = text[at]
    if (expect === 'end')
      return char === undefined ? null : { offset: at, reason: 'the value has ended, and one value is sent at a time' }
    const inside = open.at(-1)
    if (char === undefined) return { offset: at, reason: endsEarly(inside) }
    if (char === '/') return { offset: at, reason: 'JSON has no comments' }

    if (expect === 'colon') {
      if (char !== ':') return { offset: at, reason: 'a colon belongs between a key and its value' }
      at += 1
      expect = 'value'
    } else if (expect === 'comma') {
      if (char === ',') expect = inside === '{' ? 'key' : 'value'
      else if (char === CLOSING[inside]) expect = close(open)
      else if (char === '}' || char === ']')
        return { offset: at, reason: `this ${NAMES[inside]} is closed with ${CLOSING[inside]}` }
      else return { offset: at, reason: 'a comma is missing before this' }
      at += 1
    } else if (expect === 'key' || expect === 'first key') {
      if (char === '}' && expect === 'first key') {
        at += 1
        expect = close(open)
      } else if (char === '"') {
        const fault = stringFault(text, at)
        if (fault) return fault
        at = stringEnd(text, at)
        expect = 'colon'
      } else if (char === '}')
        return { offset: at, reason: 'a comma is not followed by the end: take the last comma away' }
      else return { offset: at, reason: isQuote(char) ? quoteReason(char) : 'a key is needed here, in double quotes' }
    } else if (char === ']' && expect === 'first value') {
      at += 1
      expect = close(open)
    } else if (char === '{' || char === '[') {
      open.push(char)
      at += 1
      expect = char === '{' ? 'first key' : 'first value'
    } else {
      const fault = scalarFault(text, at, inside)
      if (fault) return fault
      at = scalarEnd(text, at)
      expect = inside ? 'comma' : 'end'
    }
  }
}

function close(open) {
  open.pop()
  return open.length ? 'comma' : 'end'
}

function endsEarly(inside) {
  return inside
    ? `the text ends before the ${NAMES[inside]} does: ${CLOSING[inside]} is missing`
    : 'there is nothing here yet'
}

const isQuote = (char) => "'‘’“”„«»`".includes(char)

function quoteReason(char) {
  return char === "'" || char === '`'
    ? 'JSON takes double quotes'
    : 'these are typographic quotes; JSON takes straight ones, "'
}

/** What is wrong with the string, number, true, false or null that should begin here. */
function scalarFault(text, at, inside) {
  const char = text[at]
  if (char === '"') return stringFault(text, at)
  const word = match(WORD, text, at)
  if (word) {
    if (word === 'true' || word === 'false' || word === 'null') return null
    if (Object.hasOwn(ELSEWHERE, word)) return { offset: at, reason: `JSON writes ${ELSEWHERE[word]} for ${word}` }
    if (word === 'NaN' || word === 'Infinity') return { offset: at, reason: `JSON has no ${word}` }
    return { offset: at, reason: 'strings need quotes' }
  }
  if (/[-+.\d]/.test(char)) return numberFault(text, at)
  if (isQuote(char)) return { offset: at, reason: quoteReason(char) }
  if (char === ']' && inside === '[')
    return { offset: at, reason: 'a comma is not followed by the end: take the last comma away' }
  if (',:]}'.includes(char)) return { offset: at, reason: `a value is needed before this ${char}` }
  return { offset: at, reason: 'strings need quotes' }
}

function scalarEnd(text, at) {
  if (text[at] === '"') return stringEnd(text, at)
  return at + (match(WORD, text, at) || match(NUMBER, text, at)).length
}

function numberFault(text, at) {
  if (text[at] === '+') return { offset: at, reason: 'a number does not begin with +' }
  if (text[at] === '.') return { offset: at, reason: 'a digit is missing before the point' }
  const number = match(NUMBER, text, at)
  if (!number)
    return {
      offset: at + 1,
      reason: text.startsWith('-Infinity', at) ? 'JSON has no Infinity' : 'a digit is missing after the minus',
    }
  const end = at + number.length
  if (text[end] === '.') return { offset: end + 1, reason: 'a digit is missing after the point' }
  if (/[eE]/.test(text[end] ?? '')) return { offset: end + 1, reason: 'a digit is missing in the exponent' }
  if (/\d/.test(text[end] ?? '')) return { offset: at, reason: 'a number does not begin with 0' }
  if (match(WORD, text, end)) return { offset: end, reason: 'strings need quotes' }
  return null
}

/** What is wrong inside the string whose opening quote is here. */
function stringFault(text, start) {
  for (let at = start + 1; ;) {
    const char = text[at]
    if (char === undefined) return { offset: at, reason: 'the text ends inside a string: a closing " is missing' }
    if (char === '"') return null
    if (char === '\n' || char === '\r')
      return { offset: at, reason: 'a string ends on its line: close it with ", or write \\n for a line break' }
    if (char === '\t') return { offset: at, reason: 'a tab in a string is written \\t' }
    if (char < ' ') return { offset: at, reason: 'a control character in a string is written \\u and four digits' }
    if (char !== '\\') {
      at += 1
      continue
    }
    const escape = match(ESCAPE, text, at)
    if (!escape) {
      const reason =
        text[at + 1] === 'u'
          ? '\\u takes four hexadecimal digits'
          : 'after \\ comes one of " \\ / b f n r t u; a backslash itself is \\\\'
      return { offset: at, reason }
    }
    at += escape.length
  }
}

function stringEnd(text, start) {
  let at = start + 1
  while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at + 1
}

/** Put the fault into lines and columns, with a piece of its line to show. */
function describe(text, { offset, reason }) {
  const before = text.slice(0, offset).split(/\r\n|\r|\n/)
  const rest = text.slice(offset).split(/\r|\n/, 1)[0]
  const head = [...before.at(-1)]
  const cut = Math.max(0, head.length - 20)
  const shown = head.slice(cut).join('')
  const tail = [...rest]
  const excerpt = (cut ? '…' : '') + shown + tail.slice(0, 16).join('') + (tail.length > 16 ? '…' : '')
  return {
    offset,
    line: before.length,
    column: head.length + 1,
    excerpt,
    pointer: head.length - cut + (cut ? 1 : 0),
    reason,
    quoted: asString(text),
  }
}

/** Text that begins like no structure of JSON was most likely meant as a string. */
function asString(text) {
  const words = text.trim()
  if (!words || /^["[{]/.test(words)) return null
  const unquoted = /^(['‘“„«`])([^]*)(['’”»`])$/.exec(words)
  return JSON.stringify(unquoted ? unquoted[2] : words)
}
