import assert from 'node:assert/strict'
import { test } from 'node:test'
import { checkGroup, checkHeaders, checkSuffix, checkTopic, deadLetterTopic, retryTopic, uniqueName } from './names.ts'

const reserved = ['.retry', '.dlq']

test('topics of the grammar pass, others are a RangeError that shows them', () => {
  for (const topic of ['a', '0', 'A.b_c-d', 'a'.repeat(120), 'retry', 'dlq', 'a.retry.b']) checkTopic(topic, reserved)
  for (const topic of ['', '.', '-a', '_a', 'a b', 'ä', 'a\n', 'a'.repeat(121), 'a.retry', 'a.b.dlq', undefined, 7])
    assert.throws(
      () => checkTopic(topic as string, reserved),
      (error) => error instanceof RangeError && error.message.includes(JSON.stringify(topic) ?? 'undefined'),
    )
})

test('groups have no dots, so that the names made of topic and group are never ambiguous', () => {
  for (const group of ['g', 'G_-9', 'g'.repeat(64)]) checkGroup(group)
  for (const group of ['', 'a.b', '-g', 'g'.repeat(65), 'ü']) assert.throws(() => checkGroup(group), RangeError)
  assert.equal(retryTopic('a.b', 'g'), 'a.b.g.retry')
  assert.equal(deadLetterTopic('a.b', 'g', '.dead'), 'a.b.g.dead')
})

test('a suffix is a dot and a word, and not the one of retries', () => {
  for (const suffix of ['.dlq', '.dead-letters']) checkSuffix(suffix)
  for (const suffix of ['', 'dlq', '.', '.retry', '.a.b', '.DLQ', `.${'x'.repeat(17)}`]) assert.throws(() => checkSuffix(suffix), RangeError)
})

test('header names come out in lower case; what is not of the grammar, doubled, reserved or no string is refused', () => {
  assert.deepEqual({ ...checkHeaders({ 'X-A': '1', b: '' }) }, { 'x-a': '1', b: '' })
  for (const headers of [{ 'a b': '' }, { '': '' }, { ä: '' }, { A: '1', a: '2' }, { 'cb-x': '' }, { 'CB-X': '' }, { ['a'.repeat(129)]: '' }])
    assert.throws(() => checkHeaders(headers), RangeError)
  assert.throws(() => checkHeaders({ a: 1 as unknown as string }), TypeError)
})

test('names that objects have anyway are names like others', () => {
  const given = Object.fromEntries(['constructor', '__proto__', 'hasownproperty', 'valueof'].map((name) => [name, 'v']))
  const checked = checkHeaders(given)
  assert.deepEqual(Object.keys(checked).sort(), Object.keys(given).sort())
  for (const name of Object.keys(given)) assert.equal(checked[name], 'v', name)
})

test('header values are any text of one line without outer blanks', () => {
  for (const value of ['', 'ü😀', 'a b\tc', '\u0001', 'x'.repeat(10_000)]) assert.equal(checkHeaders({ a: value })['a'], value)
  for (const value of ['a\nb', 'a\rb', 'a\0', ' a', 'a ', '\u00A0a', '\uD800', 'x\uDFFF']) assert.throws(() => checkHeaders({ a: value }), RangeError)
})

test('a dot and an underscore are one character where names must be unique', () => {
  assert.equal(uniqueName('a_b.c'), uniqueName('a.b_c'))
  assert.notEqual(uniqueName('a-b'), uniqueName('a.b'))
})
