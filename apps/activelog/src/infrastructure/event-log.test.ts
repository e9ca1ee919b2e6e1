import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Position } from '../application/ports.ts'
import { freshDatabase } from './database.fixture.ts'
import { adoptEvents, eventLog, forgetOldEvents } from './event-log.ts'
import { createTables } from './schema.ts'

const id = (n: number): string => `019c0000-0000-7000-8000-${String(n).padStart(12, '0')}`

test('the log has one order, which no event gets in front of later: not one that began to be written before and is committed after', async (t) => {
  const db = await freshDatabase(t)
  await createTables(db, ['acme', 'globex'], [])
  const log = eventLog(db)
  const insert = (n: number): [string, unknown[]] => [
    'INSERT INTO tenant_acme.events (id, name, activity) VALUES ($1, $2, $3)',
    [id(n), 'activity.created', '{}'],
  ]
  const begin = await log.position('acme', undefined)
  const seen = async (from = begin, tenant = 'acme', limit = 500): Promise<string[]> =>
    (await log.after(tenant, from, limit, 1_000_000)).map((event) => event.id)

  await db.transaction(async (tx) => {
    await tx.query(...insert(9))
    await db.query(...insert(1))
    assert.deepEqual(await seen(), [], 'one before it may still come')
  })
  await db.query(...insert(5))
  assert.deepEqual(await seen(), [id(9), id(1), id(5)])
  assert.deepEqual(await seen(begin, 'acme', 2), [id(9), id(1)])
  assert.deepEqual(await seen(await log.position('acme', id(9))), [id(1), id(5)])
  assert.deepEqual(await seen(await log.position('acme', undefined)), [])
  assert.deepEqual(await seen(await log.position('acme', id(2))), [id(9), id(1), id(5)], 'all that are kept')
  assert.deepEqual(await seen(await log.position('globex', id(9)), 'globex'), [])

  assert.deepEqual(await seen(await log.position('acme', begin.id)), [id(9), id(1), id(5)], 'a place says where to go on, too')
  assert.deepEqual(await seen(await log.position('acme', (await log.position('acme', undefined)).id)), [])
  assert.deepEqual(await seen(await log.position('globex', begin.id), 'globex'), [])

  await db.query("UPDATE tenant_acme.events SET written_at = now() - interval '24 hours 1 second' WHERE id = $1", [id(9)])
  await forgetOldEvents(db, ['acme', 'globex'])
  assert.deepEqual(await seen(), [id(1), id(5)])
})

test('a stream that begins stands behind an event, and not where transactions are that a crash of the server takes back, with their numbers', async (t) => {
  const db = await freshDatabase(t)
  await createTables(db, ['acme'], [])
  const log = eventLog(db)
  const insert = (n: number, txid: string): Promise<unknown> =>
    db.query("INSERT INTO tenant_acme.events (id, txid, name, activity) VALUES ($1, $2::text::xid8, 'activity.created', '{}')", [id(n), txid])
  /** The number of a transaction that is rolled back. */
  const lost = async (): Promise<string> => {
    let txid = ''
    const rollback = db.transaction(async (tx) => {
      const { rows } = await tx.query('SELECT pg_current_xact_id()::text AS txid')
      txid = (rows[0] as { txid: string }).txid
      throw new Error('rolled back')
    })
    await assert.rejects(rollback, /rolled back/)
    return txid
  }
  const seen = async (from: Position): Promise<string[]> => (await log.after('acme', from, 500, 1_000_000)).map((event) => event.id)

  for (const n of [1, 2]) {
    const again = await lost()
    const begin = await log.position('acme', undefined)
    await insert(n, again)
    assert.deepEqual(await seen(begin), [id(n)])
    assert.deepEqual(await seen(await log.position('acme', begin.id)), [id(n)])
  }
})

test('events of a transaction that is still to come, as after a restore, are moved to the end, and no others', async (t) => {
  const db = await freshDatabase(t)
  await createTables(db, ['acme'], [])
  const told: object[] = []
  const note = (fields: object): void => void told.push(fields)
  const adopt = (): Promise<void> => adoptEvents(db, ['acme'], { debug: note, info: note, warn: note, error: note })
  const insert = (n: number, txid: string): Promise<unknown> =>
    db.query(`INSERT INTO tenant_acme.events (id, txid, name, activity) VALUES ($1, ${txid}, 'activity.created', '{}')`, [id(n)])
  const places = async (): Promise<Map<string, string>> => {
    const { rows } = await db.query('SELECT id, txid::text FROM tenant_acme.events')
    return new Map((rows as { id: string; txid: string }[]).map((row) => [row.id, row.txid]))
  }

  for (const n of [2, 1]) await insert(n, 'DEFAULT')
  const before = await places()
  await adopt()
  assert.deepEqual([await places(), told], [before, []], 'on the server that wrote them')

  for (const n of [4, 3]) await insert(n, `'${2n ** 63n}'`)
  await adopt()
  assert.deepEqual(told, [{ table: 'tenant_acme.events', events: 2 }])
  const log = eventLog(db)
  const seen = await log.after('acme', { txid: '0', id: id(0) }, 500, 1_000_000)
  assert.deepEqual(
    seen.map((event) => event.id),
    [id(2), id(1), id(3), id(4)],
  )
  const after = await places()
  for (const [one, txid] of before) assert.equal(after.get(one), txid)
})

test('the transaction that comes next is one that is still to come', async (t) => {
  const db = await freshDatabase(t)
  await createTables(db, ['acme'], [])
  const { rows: inserted } = await db.query(
    `INSERT INTO tenant_acme.events (id, txid, name, activity)
     SELECT ('019c0000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, (pg_snapshot_xmax(pg_current_snapshot())::text::numeric + n)::text::xid8, 'activity.created', '{}'
     FROM generate_series(1, 100) AS n RETURNING txid::text`,
  )
  let adopted = 0
  const logger = { debug() {}, info() {}, error() {}, warn: (fields: object) => void (adopted = (fields as { events: number }).events) }
  await adoptEvents(db, ['acme'], logger)
  const { rows: last } = await db.query('SELECT txid::text FROM tenant_acme.events ORDER BY events.txid DESC LIMIT 1')
  // They were moved by the next transaction, if nobody else on this server was faster.
  const by = BigInt((last[0] as { txid: string }).txid)
  const toCome = (inserted as { txid: string }[]).filter(({ txid }) => BigInt(txid) >= by).length
  assert.ok(adopted >= toCome && toCome > 0, `${adopted} were adopted, of ${toCome} to come at least`)
})

test('a look ends with the event that makes it large, however large that is', async (t) => {
  const db = await freshDatabase(t)
  await createTables(db, ['acme'], [])
  const log = eventLog(db)
  const begin = await log.position('acme', undefined)
  // Compressed it is small: what counts is what leaves the server.
  await db.query(
    `INSERT INTO tenant_acme.events (id, name, activity) SELECT ('019c0000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'activity.created', json_build_object('notes', repeat('x', 12000))
     FROM generate_series(1, 100) AS n`,
  )
  const found = async (limitBytes: number): Promise<number> => (await log.after('acme', begin, 500, limitBytes)).length
  assert.deepEqual(await Promise.all([1, 12_000, 13_000, 100_000, 10_000_000].map(found)), [1, 1, 2, 9, 100])
})
