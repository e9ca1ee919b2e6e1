import assert from 'node:assert/strict'
import { test } from 'node:test'
import { virtualClock } from '@core-backend/events/testing'
import { createMetrics } from './metrics.ts'

test('a source that gives no answer holds the others up for two seconds', async () => {
  const clock = virtualClock()
  const metrics = createMetrics({ outbox: () => new Promise(() => {}), lag: async () => 7 }, { clock })
  let text = ''
  void metrics.render().then((rendered) => (text = rendered))
  await clock.advance(1_999)
  assert.equal(text, '')
  await clock.advance(1)
  assert.match(text, /^activelog_broker_lag 7$/m)
})
