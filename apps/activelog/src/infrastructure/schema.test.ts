import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createInbox, createOutbox } from '@core-backend/outbox'
import { openDatabase as openTestDatabase } from '@core-backend/testkit/postgres'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { freshDatabase } from './database.fixture.ts'
import { openDatabase } from './database.ts'
import { adoptEvents } from './event-log.ts'
import { createTables, sharedSchema } from './schema.ts'

const shared = [createOutbox({ schema: sharedSchema }).schema(), createInbox({ schema: sharedSchema }).schema()]
const quiet = { debug() {}, info() {}, warn() {}, error() {} }
const line = `INSERT INTO tenant_acme.badges (activity_id, version, user_id, names, earned_on) VALUES (gen_random_uuid(), 1, 1, '{}', now())`

test('where nothing is missing, who starts waits for nobody who writes, and holds nobody up', async (t) => {
  const db = await freshDatabase(t)
  await createTables(db, ['acme'], shared)
  await db.transaction(async (tx) => {
    await tx.query(line)
    await createTables(db, ['acme'], shared, { logger: { ...quiet, warn: assert.fail } })
    await adoptEvents(db, ['acme'], quiet)
  })
})

test('what is missing is made once its lock is free, and nobody waits behind who waits for it', async (t) => {
  const db = await freshDatabase(t)
  await createTables(db, ['acme'], shared)
  // As before an index that a later version has.
  await db.query('DROP INDEX tenant_acme.badges_of_user; COMMENT ON TABLE tenant_acme.activities IS NULL')
  const told: object[] = []
  const logger = { ...quiet, warn: (fields: object) => void told.push(fields) }
  let creating: Promise<void> | undefined
  await db.transaction(async (tx) => {
    await tx.query(line)
    creating = createTables(db, ['globex', 'acme'], shared, { logger, againMs: 10 })
    await waitUntil(() => told.length > 0)
    await db.query(line)
  })
  await creating
  assert.deepEqual((told[0] as { what: string }).what, '"tenant_acme"')
  const { rows } = await db.query(
    "SELECT to_regclass('tenant_acme.badges_of_user') IS NOT NULL AS made, to_regclass('tenant_globex.audit') IS NOT NULL AS also",
  )
  assert.deepEqual(rows, [{ made: true, also: true }])
})

test('a start that waits for a lock ends when it is told to', async (t) => {
  const db = await freshDatabase(t)
  await createTables(db, ['acme'], shared)
  const stopping = new AbortController()
  await db.transaction(async (tx) => {
    await tx.query('LOCK TABLE tenant_acme.events')
    const logger = { ...quiet, warn: () => stopping.abort() }
    await assert.rejects(adoptEvents(db, ['acme'], logger, { signal: stopping.signal }), { name: 'AbortError' })
  })
})

test('many processes that make the tables at once make them together', async (t) => {
  const test = await openTestDatabase('pg18')
  const dbs = Array.from({ length: 6 }, () => openDatabase(test.url!, { name: 'test', max: 1 }))
  t.after(async () => {
    for (const db of dbs) await db.close()
    await test.close()
  })
  await Promise.all(dbs.map((db) => db.query('SELECT 1')))
  await Promise.all(dbs.map((db) => createTables(db, ['acme', 'globex', 'initech'], [], { againMs: 20 })))
})
