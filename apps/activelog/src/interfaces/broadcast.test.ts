import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { MessageSubscriber } from '@core-backend/events'
import { receivedMessage } from '@core-backend/events/testing'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { newActivity } from '../domain/activity.ts'
import { ActivityCreated } from '../domain/events.ts'
import { broadcast } from './broadcast.ts'
import { createLive } from './http/live.ts'

const activity = newActivity({ userId: 1, type: 'yoga', title: 'x', durationMinutes: 1, activityDate: '2026-01-01' }, { id: 'a', now: new Date('2026-01-01') })
const logger = { debug() {}, info() {}, warn() {}, error() {} }

test('the broker is read while somebody listens, and not before or after; an event makes the listeners of its tenant look', async (t) => {
  const steps: string[] = []
  let deliver: Parameters<MessageSubscriber['subscribe']>[2] | undefined
  const subscriber: MessageSubscriber = {
    subscribe: async (_topics, _options, handler) => {
      await setImmediate() // who subscribes over and over lets the test go on, and fail
      steps.push('subscribed')
      deliver = handler
      return { close: async () => void steps.push('closed') }
    },
  }
  const log = { position: async () => ({ txid: '0', id: '' }), after: async () => [] }
  const live = createLive({ log, logger, pollMs: 2 ** 30 })
  const woken: string[] = []
  const feed = broadcast(subscriber, { ...live, wake: (tenant) => void woken.push(tenant), audience: live.audience }, logger)
  t.after(async () => {
    await feed.close()
    live.close()
  })
  await setImmediate() // every turn that needs nobody would be over
  assert.deepEqual(steps, [])

  for (const round of [1, 2]) {
    const stream = await live.open('acme', undefined)
    await waitUntil(() => steps.length === 2 * round - 1)
    for (const tenantId of ['globex', 'acme']) await deliver!(receivedMessage(ActivityCreated(activity, { tenantId })), undefined as never)
    assert.deepEqual(woken.splice(0), ['globex', 'acme'])
    await stream.cancel()
    await waitUntil(() => steps.length === 2 * round)
    await setImmediate()
  }
  assert.deepEqual(steps, ['subscribed', 'closed', 'subscribed', 'closed'])
})
