import assert from 'node:assert/strict'
import { test } from 'node:test'
import { healthOf, oneAtATime } from './health.ts'

test('what a check rejects with, be it no error, is told in one line and takes only its own part down', async () => {
  const rejecting = (what: unknown) => (): Promise<never> => Promise.reject(what)
  const report = await healthOf({ broker: rejecting(undefined), database: rejecting(new Error('away')), outbox: async () => ({ status: 'ok' }) })
  assert.deepEqual(report, {
    status: 'down',
    checks: { broker: { status: 'down', error: 'undefined was thrown' }, database: { status: 'down', error: 'away' }, outbox: { status: 'ok' } },
  })
})

test('a question is asked once at a time, however many want the answer', async () => {
  const asked: PromiseWithResolvers<number>[] = []
  const ask = oneAtATime(() => {
    asked.push(Promise.withResolvers())
    return asked.at(-1)!.promise
  })
  const both = Promise.all([ask(), ask()])
  asked[0]!.resolve(1)
  assert.deepEqual([await both, asked.length], [[1, 1], 1])
  const failing = Promise.allSettled([ask(), ask()])
  asked[1]!.reject(new Error('away'))
  assert.deepEqual([(await failing).map(({ status }) => status), asked.length], [['rejected', 'rejected'], 2])
  void ask()
  assert.equal(asked.length, 3)
})
