import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type RetryOptions, retryPolicy } from './retry.ts'

const decide = (options: RetryOptions, { leaveOrder = false, random = (): number => 1 } = {}) => retryPolicy(options, { leaveOrder, random })
const error = new Error('no')

test('waits grow from the initial bound to the largest, with full jitter', () => {
  const policy = decide({ maxAttempts: 10, initialDelayMs: 100, maxDelayMs: 1_000, multiplier: 3 })
  assert.deepEqual(
    [1, 2, 3, 4, 5].map((failures) => policy(error, failures, undefined)),
    [100, 300, 900, 1_000, 1_000].map((delayMs) => ({ kind: 'wait', delayMs })),
  )
  assert.deepEqual(decide({ initialDelayMs: 100 }, { random: () => 0.25 })(error, 1, undefined), { kind: 'wait', delayMs: 25 })
})

test('the last attempt is the end; by default the third', () => {
  assert.equal(decide({})(error, 2, undefined).kind, 'wait')
  assert.deepEqual(decide({})(error, 3, undefined), { kind: 'dead' })
  assert.deepEqual(decide({ maxAttempts: 1 })(error, 1, undefined), { kind: 'dead' })
  assert.equal(decide({ maxAttempts: Infinity })(error, 1_000_000, undefined).kind, 'wait')
})

test('an error that says it is not retryable is the end, and so is one that isRetryable refuses', () => {
  assert.deepEqual(decide({})(Object.assign(new Error('final'), { retryable: false }), 1, undefined), { kind: 'dead' })
  assert.deepEqual(decide({ isRetryable: (cause) => cause !== error })(error, 1, undefined), { kind: 'dead' })
  for (const strange of [undefined, null, 'text', 7, { retryable: true }, { retryable: 'no' }]) assert.equal(decide({})(strange, 1, undefined).kind, 'wait')
})

test('a delay that was asked for replaces the backoff, not the count', () => {
  assert.deepEqual(decide({})(error, 1, 77_000), { kind: 'wait', delayMs: 77_000 })
  assert.deepEqual(decide({})(error, 3, 77_000), { kind: 'dead' })
})

test('a message leaves the order after its inline attempts', () => {
  const policy = decide({ maxAttempts: 5, inlineAttempts: 2, initialDelayMs: 10 }, { leaveOrder: true })
  assert.deepEqual(
    [1, 2, 3, 4, 5].map((failures) => policy(error, failures, undefined).kind),
    ['wait', 'redeliver', 'redeliver', 'redeliver', 'dead'],
  )
})
