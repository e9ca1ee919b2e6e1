import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { virtualClock } from '@core-backend/events/testing'
import { createInbox } from '@core-backend/outbox'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { forgetOldKeys } from './activity-store.ts'
import { freshDatabase } from './database.fixture.ts'
import type { Database } from './database.ts'
import { forgetOldEvents } from './event-log.ts'
import { startHousekeeping } from './housekeeping.ts'
import { createTables, sharedSchema } from './schema.ts'

const tenants = ['acme', 'globex']
const inbox = createInbox({ schema: sharedSchema })
const quiet = { debug() {}, info() {}, warn() {}, error() {} }

/** A database whose statements are counted. */
async function world(t: TestContext): Promise<{ db: Database; statements: string[] }> {
  const db = await freshDatabase(t)
  await createTables(db, tenants, [inbox.schema()])
  const statements: string[] = []
  return { db: { ...db, query: (text, values) => (statements.push(text), db.query(text, values)) }, statements }
}

/** `old` rows that are past their time, and two that are not. */
async function fill(db: Database, old: number): Promise<void> {
  for (const tenant of tenants)
    for (const [rows, age] of [
      [old, '24 hours 1 second'],
      [2, '23 hours'],
    ] as const) {
      await db.query(
        `INSERT INTO tenant_${tenant}.events (id, name, activity, written_at) SELECT gen_random_uuid(), 'x', '{}', now() - interval '${age}' FROM generate_series(1, ${rows})`,
      )
      await db.query(
        `INSERT INTO tenant_${tenant}.idempotency_keys (key, fingerprint, response, created_at) SELECT gen_random_uuid(), 'x', '{}', now() - interval '${age}' FROM generate_series(1, ${rows})`,
      )
    }
}

async function kept(db: Database): Promise<number[]> {
  const tables = tenants.flatMap((tenant) => [`tenant_${tenant}.events`, `tenant_${tenant}.idempotency_keys`])
  const { rows } = await db.query(tables.map((table) => `SELECT count(*)::integer AS n FROM ${table}`).join(' UNION ALL '))
  return (rows as { n: number }[]).map(({ n }) => n)
}

test('what is past its time goes in steps, of each tenant, and nothing else', async (t) => {
  const { db, statements } = await world(t)
  await fill(db, 20_001)
  for (const forget of [forgetOldKeys, forgetOldEvents]) {
    statements.length = 0
    await forget(db, tenants)
    assert.equal(statements.length, 6, 'three steps of each tenant')
  }
  assert.deepEqual(await kept(db), [2, 2, 2, 2])
})

test('what is old is found by an index that the server keeps up with', async (t) => {
  const { db } = await world(t)
  const { rows } = await db.query("SELECT reloptions FROM pg_class WHERE relname = 'events_by_time'")
  assert.deepEqual(
    rows,
    tenants.map(() => ({ reloptions: ['autosummarize=on'] })),
  )
})

test('a step is the last one when the process stops', async (t) => {
  const { db, statements } = await world(t)
  await fill(db, 20_001)
  statements.length = 0
  for (const forget of [forgetOldKeys, forgetOldEvents]) {
    const stopping = new AbortController()
    const stopped: Database = { ...db, query: (text, values) => (stopping.abort(), db.query(text, values)) }
    await assert.rejects(forget(stopped, tenants, stopping.signal), { name: 'AbortError' })
  }
  assert.equal(statements.length, 2)
})

test('the first round is soon after the start, the next ones an hour apart, also after one that failed', async (t) => {
  const { db, statements } = await world(t)
  const clock = virtualClock()
  const told: string[] = []
  let broken = false
  const housekeeping = startHousekeeping({
    db: { ...db, query: (...given) => (broken ? Promise.reject(new Error('no database')) : db.query(...given)) },
    inbox,
    tenants,
    logger: { ...quiet, warn: (_, text) => void told.push(text) },
    clock,
  })
  t.after(() => housekeeping.close())
  const swept = async (): Promise<void> => void (await waitUntil(async () => (await kept(db)).every((n) => n === 2) && clock.sleepers === 1))
  await fill(db, 1)
  await clock.advance(4_999)
  assert.deepEqual(await kept(db), [3, 3, 3, 3])
  await clock.advance(10_000)
  await swept()
  broken = true
  await clock.advance(3_600_000)
  await waitUntil(() => told.length === 1 && clock.sleepers === 1)
  broken = false
  await db.query('TRUNCATE tenant_acme.events, tenant_globex.events, tenant_acme.idempotency_keys, tenant_globex.idempotency_keys')
  await fill(db, 1)
  await clock.advance(3_600_000)
  await swept()
  await housekeeping.close()
  assert.equal(clock.sleepers, 0)
  statements.length = 0
  await clock.advance(7_200_000)
  assert.deepEqual([statements, told], [[], ['Housekeeping failed, the next round is in an hour']])
})
