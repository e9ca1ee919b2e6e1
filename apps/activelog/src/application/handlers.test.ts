import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createEventProcessor } from '@core-backend/events'
import { newActivity } from '../domain/activity.ts'
import { ActivityCreated, ActivityDeleted } from '../domain/events.ts'
import { handlerNames, registerHandlers } from './handlers.ts'
import type { ProjectionWriter } from './ports.ts'

const activity = newActivity(
  { userId: 7, type: 'running', title: 'Marathon', durationMinutes: 250, distanceKm: 42.195, activityDate: '2026-03-01' },
  { id: 'a1', now: new Date('2026-03-01T12:00:00Z') },
)

/** What the handlers were asked to write, by handler. */
function recorder(failing?: string): { calls: Record<string, unknown[][]>; projections: ProjectionWriter<undefined> } {
  const calls: Record<string, unknown[][]> = { count: [], award: [], record: [] }
  const note =
    (name: string) =>
    async (_: undefined, ...args: unknown[]) => {
      calls[name]!.push(args)
      if (name === failing && calls[name]!.length === 1) throw new Error('once')
    }
  return { calls, projections: { count: note('count'), award: note('award'), record: note('record') } }
}

test('an event reaches all handlers, with its tenant', async () => {
  const { calls, projections } = recorder()
  const processor = createEventProcessor()
  registerHandlers(processor, projections)
  assert.equal(processor.metrics().handlers.length, 3 * handlerNames.length)
  const event = ActivityCreated(activity, { tenantId: 'acme', correlationId: 'r1', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' })
  await processor.processEvent(event)
  assert.deepEqual(calls, {
    count: [['acme', activity, false]],
    award: [['acme', activity, ['marathon', 'long-haul']]],
    record: [
      [
        'acme',
        { eventId: event.id, event: 'activity.created', activity, occurredAt: event.occurredAt, requestId: 'r1', traceId: '0af7651916cd43dd8448eb211c80319c' },
      ],
    ],
  })
})

test('a deletion takes the activity out of the sums and its badges back', async () => {
  const { calls, projections } = recorder()
  const processor = createEventProcessor()
  registerHandlers(processor, projections)
  await processor.processEvent(ActivityDeleted({ ...activity, version: 2 }, { tenantId: 'acme' }))
  assert.deepEqual([calls['count']![0]![2], calls['award']![0]![2]], [true, []])
})

test('a handler that fails runs again, alone', async () => {
  const { calls, projections } = recorder('award')
  const processor = createEventProcessor({ retry: { initialDelayMs: 0 } })
  registerHandlers(processor, projections)
  await processor.processEvent(ActivityCreated(activity, { tenantId: 'acme' }))
  assert.deepEqual([calls['count']!.length, calls['award']!.length, calls['record']!.length], [1, 2, 1])
})

test('an event of no tenant is not handled, and not tried again', async () => {
  const { calls, projections } = recorder()
  const processor = createEventProcessor()
  registerHandlers(processor, projections)
  await assert.rejects(processor.processEvent(ActivityCreated(activity)), { code: 'ERR_EVENTS_HANDLING', retryable: false })
  assert.deepEqual(calls, { count: [], award: [], record: [] })
  assert.equal(
    processor.metrics().handlers.reduce((sum, { retried }) => sum + retried, 0),
    0,
  )
})
