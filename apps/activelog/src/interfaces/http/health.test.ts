import assert from 'node:assert/strict'
import { test } from 'node:test'
import { healthOf } from './health.ts'

test('what a check rejects with, be it no error, is told in one line and takes only its own part down', async () => {
  const rejecting = (what: unknown) => (): Promise<never> => Promise.reject(what)
  const report = await healthOf({ broker: rejecting(undefined), database: rejecting(new Error('away')), outbox: async () => ({ status: 'ok' }) })
  assert.deepEqual(report, {
    status: 'down',
    checks: { broker: { status: 'down', error: 'undefined was thrown' }, database: { status: 'down', error: 'away' }, outbox: { status: 'ok' } },
  })
})
