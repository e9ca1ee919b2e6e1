import assert from 'node:assert/strict'
import { test } from 'node:test'
import { errorText, thrownText } from './thrown.ts'

/** Whatever it is asked for, it throws. */
const hostile = new Proxy(new Error('never seen'), {
  get: () => {
    throw new Error('no')
  },
  getPrototypeOf: () => {
    throw new Error('no')
  },
})
const mute = Object.assign(new RangeError('mute'), {
  toString: () => {
    throw new Error('no')
  },
})
const odd = Object.assign(new Error('x'), { message: Symbol('m') })
const circular: { self?: unknown } = {}
circular.self = circular

test('whatever is thrown has a text, and one after which a sentence may end', () => {
  const texts: [unknown, text: string, sentence: string][] = [
    [new RangeError('r'), 'RangeError: r', 'r'],
    [new Error(''), 'Error', ''],
    ['text', 'text', 'text'],
    [undefined, 'undefined', 'undefined was thrown'],
    [null, 'null', 'null was thrown'],
    [42, '42', '42 was thrown'],
    [10n, 'bigint', 'bigint was thrown'],
    [Symbol('s'), 'Symbol(s)', 'Symbol(s) was thrown'],
    [() => undefined, 'function', 'function was thrown'],
    [{ status: 500 }, '{"status":500}', '{"status":500} was thrown'],
    [Object.create(null), '{}', '{} was thrown'],
    [circular, 'object', 'object was thrown'],
    [mute, 'RangeError: mute', 'mute'],
    [odd, '{}', '{} was thrown'],
    [hostile, 'object', 'object was thrown'],
  ]
  for (const [thrown, text, sentence] of texts) assert.deepEqual([thrownText(thrown), errorText(thrown)], [text, sentence])
})
