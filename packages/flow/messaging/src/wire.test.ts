import assert from 'node:assert/strict'
import { test } from 'node:test'
import { copyOf, diagnosis, header, originHeaders, trailOf, userHeaders } from './wire.ts'

test('the trail of a message that is not ours is empty, whatever its headers are called', () => {
  const empty = { failures: 0, firstFailureAt: undefined, replays: 0, origin: undefined, deliverAt: undefined }
  assert.deepEqual(trailOf({}), empty)
  assert.deepEqual(trailOf({ 'content-type': 'x', failures: '3' }), empty)
})

test('what is written is read again, and what somebody spoilt counts as nothing', () => {
  const headers = {
    ...originHeaders({ topic: 't', partition: 3, position: '17' }),
    [header.failures]: '2',
    [header.firstFailureAt]: '1700000000000',
    [header.replays]: '1',
  }
  assert.deepEqual(trailOf(headers), {
    failures: 2,
    firstFailureAt: 1_700_000_000_000,
    replays: 1,
    origin: { topic: 't', partition: 3, position: '17' },
    deliverAt: undefined,
  })
  const spoilt = trailOf({ [header.failures]: 'many', [header.replays]: '-1', [header.originTopic]: 't', [header.originPartition]: 'NaN', 'cb-unknown': 'x' })
  assert.deepEqual([spoilt.failures, spoilt.replays, spoilt.origin], [0, 0, { topic: 't', partition: 0, position: '' }])
})

test('handlers see no header of ours, and without one they see the very object', () => {
  const plain = { a: '1' }
  assert.equal(userHeaders(plain), plain)
  assert.deepEqual(userHeaders({ a: '1', [header.failures]: '1', 'cb-later': '2' }), { a: '1' })
})

test('a diagnosis is one line of well-formed text, and all of it 8 KiB at most', () => {
  const error = Object.assign(new TypeError('line one\r\n  line two\0 \uD800'), { code: 'ERR_X' })
  const short = diagnosis(error)
  assert.equal(short[header.errorCode], 'ERR_X')
  assert.equal(short[header.errorMessage], 'line one | line two \uFFFD')
  assert.match(short[header.errorStack]!, /^TypeError: line one \| line two/)
  const huge = Object.assign(new Error('😀'.repeat(100_000)), { code: 'ü'.repeat(500) })
  const values = Object.values(diagnosis(huge))
  assert.ok(values.reduce((sum, value) => sum + Buffer.byteLength(value), 0) <= 8_192)
  for (const value of values) {
    assert.ok(value.isWellFormed() && !value.includes('\uFFFD'), 'cut between characters')
    assert.equal(value, value.trim())
  }
})

test('whatever was thrown has a diagnosis', () => {
  const circular: { self?: unknown } = {}
  circular.self = circular
  for (const thrown of [undefined, null, 'text', 42, 10n, Symbol('s'), {}, circular, () => undefined, Object.create(null)]) {
    const { [header.errorCode]: code, [header.errorMessage]: text } = diagnosis(thrown)
    assert.ok(code !== undefined && code !== '' && text !== undefined && text !== '', typeof thrown)
  }
  assert.equal(diagnosis(new RangeError('r'))[header.errorCode], 'RangeError')
})

test('a copy keeps id, key, body, time and what is raw', () => {
  const message = {
    id: 'i',
    idStable: true,
    key: 'k',
    value: Uint8Array.of(1),
    headers: { a: '1' },
    timestamp: 5,
    tombstone: false,
    rawKey: Uint8Array.of(2),
    rawHeaders: [],
  }
  const copy = copyOf(message, 'to', { b: '2' }, { deliverAt: 9, dedupeId: 'd' })
  assert.deepEqual(copy, {
    id: 'i',
    topic: 'to',
    key: 'k',
    value: message.value,
    headers: { b: '2' },
    timestamp: 5,
    tombstone: false,
    deliverAt: 9,
    dedupeId: 'd',
    rawKey: message.rawKey,
    rawHeaders: [],
  })
})
