import { Timer } from './timer.js';

/**
 * Get a token or a grant: the user gave it, or a function that returns it or a promise of it.
 * @param {string | function | null | undefined} source
 * @param {string} what  its name in errors
 * @param {number} timeout  ms that the function has
 * @returns {Promise<string>} empty if the user has none
 * @throws what the function throws; an Error if it takes too long; a TypeError if it returns something else
 */
export async function obtain(source, what, timeout) {
  if (typeof source !== 'function') return source ?? ''
  const timer = new Timer()
  const late = new Promise((_, reject) => {
    timer.start(timeout, () => reject(new Error(`the function gave no ${what} within ${timeout} ms`)))
  })
  try {
    const value = (await Promise.race([source.call(null), late])) ?? ''
    if (typeof value !== 'string') throw new TypeError(`a ${what} is a string`)
    return value
  } finally {
    timer.stop()
  }
}
