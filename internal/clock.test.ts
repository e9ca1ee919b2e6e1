import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from './clock.ts'

const day = 86_400_000

test('a sleep longer than a timer can be lasts as long as it is told', async (t) => {
  const asked: number[] = []
  t.mock.method(globalThis, 'setTimeout', (done: () => void, ms: number) => {
    asked.push(ms)
    queueMicrotask(done)
    return { unref: () => undefined }
  })
  await systemClock.sleep(60 * day, { background: true })
  assert.ok(asked.every((ms) => ms <= 2 ** 31 - 1))
  assert.deepEqual([asked.length, asked.reduce((sum, ms) => sum + ms)], [3, 60 * day])
})

test('a long sleep ends with its signal in any of its parts, and leaves no timer', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const stop = new AbortController()
  const reason = new Error('enough')
  let over = false
  const sleeping = systemClock.sleep(60 * day, { signal: stop.signal }).finally(() => (over = true))
  t.mock.timers.tick(2 ** 31)
  await Promise.resolve()
  assert.equal(over, false)
  stop.abort(reason)
  await assert.rejects(sleeping, reason)
})
