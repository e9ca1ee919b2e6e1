import assert from 'node:assert/strict'
import { suite, test, type TestContext } from 'node:test'
import { receivedMessage } from '@core-backend/events/testing'
import type { Transaction } from '@core-backend/internal/sql'
import { createInbox } from '@core-backend/outbox'
import { openDatabase as openTestDatabase } from '@core-backend/testkit/postgres'
import type { ProjectionWriter } from '../application/ports.ts'
import { newActivity } from '../domain/activity.ts'
import { ActivityCreated } from '../domain/events.ts'
import { openDatabase } from '../infrastructure/database.ts'
import { projections } from '../infrastructure/projections.ts'
import { createTables, sharedSchema } from '../infrastructure/schema.ts'
import { activityWorker } from './worker.ts'

const activity = newActivity(
  { userId: 1, type: 'running', title: 'x', durationMinutes: 250, distanceKm: 42.2, activityDate: '2026-03-01' },
  { id: '019c0000-0000-7000-8000-000000000001', now: new Date('2026-03-01T12:00:00Z') },
)

/** A worker whose second handler meets `trouble` in its first runs, after it has written its row, and a message for it. */
async function world(
  t: TestContext,
  trouble: (tx: Transaction, run: number) => Promise<unknown> = async () => undefined,
): Promise<{ handle(): Promise<void>; separated(): number; runs(): number; effects(): Promise<unknown> }> {
  const test = await openTestDatabase('pg18')
  const db = openDatabase(test.url!, { name: 'test' })
  t.after(async () => {
    await db.close()
    await test.close()
  })
  const inbox = createInbox({ schema: sharedSchema })
  await createTables(db, ['acme'], [inbox.schema()])
  const sound = projections(db)
  let runs = 0
  const writer: ProjectionWriter<Transaction> = {
    ...sound,
    async award(tx, ...given) {
      const run = ++runs
      await sound.award(tx, ...given)
      await trouble(tx, run)
    },
  }
  const logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
  const { processor } = activityWorker({
    subscriber: { subscribe: () => Promise.reject(new Error('not here')) },
    inbox: inbox.runner(db.transaction, { commitChecked: true }),
    projections: writer,
    logger,
  })
  const message = receivedMessage(ActivityCreated(activity, { tenantId: 'acme' }))
  return {
    handle: () => processor.processMessage(message),
    separated: () => processor.metrics().separated,
    runs: () => runs,
    async effects() {
      const { rows } =
        await db.query(`SELECT (SELECT sum(activities)::integer FROM tenant_acme.day_sums) AS counted, (SELECT count(*)::integer FROM tenant_acme.badges) AS badges,
        (SELECT count(*)::integer FROM tenant_acme.audit) AS audit, (SELECT count(*)::integer FROM activelog.inbox) AS records`)
      return rows[0]
    },
  }
}

const once = { counted: 1, badges: 1, audit: 1, records: 3 }

suite('the handlers of an event take effect once each', async () => {
  await test('in one transaction', async (t) => {
    const { handle, effects, runs, separated } = await world(t)
    await handle()
    assert.deepEqual([await effects(), runs(), separated()], [once, 1, 0])
  })

  const troubles: Record<string, (tx: Transaction) => Promise<unknown>> = {
    'when the second throws': () => Promise.reject(new Error('not yet')),
    'when a statement of the second fails': (tx) => tx.query('SELECT 1 / 0'),
    'when the second goes on after a statement that failed': (tx) => tx.query('SELECT 1 / 0').catch(() => undefined),
    'when the connection ends in the middle': (tx) => tx.query('SELECT pg_terminate_backend(pg_backend_pid())'),
  }
  for (const [name, trouble] of Object.entries(troubles))
    await test(name, async (t) => {
      // The first run is in the shared transaction, the second in its own.
      const { handle, effects, runs, separated } = await world(t, async (tx, run) => (run <= 2 ? trouble(tx) : undefined))
      await handle()
      assert.deepEqual([await effects(), runs(), separated()], [once, 3, 1])
    })

  await test('when the event is delivered again, to several at a time', async (t) => {
    const { handle, effects } = await world(t, async (_, run) => (run === 1 ? Promise.reject(new Error('not yet')) : undefined))
    await Promise.all([handle(), handle(), handle()])
    await handle()
    assert.deepEqual(await effects(), once)
  })
})
