import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { waitUntil } from '../../../../tests/kit/wait-until.ts'
import { message, schemas, testBroker, textOf } from './harness.test.ts'
import { createInbox, createOutbox, relay, type Alarm, type PublishedMessage, type SqlClient } from './index.ts'
import { commitOrder, moving, others, outage, plan, releaseOfMany, restorePlan } from './proof-cases.test.ts'

describe('proofs on PostgreSQL 18', () => {
  const { open, close } = schemas('pg18')
  after(close)

  test('four relays, and ids that commit in another order: nothing is lost, every key in order', async () =>
    commitOrder(await open(), { relays: 4, writers: 12, transactions: 25, keys: 15 }))

  test('the broker is down for a second under load: nothing is lost or parked, every key in order', async () =>
    outage(await open(), { outageMs: 1_000, relays: 2 }))

  test('a turn reads its batch by the index, whatever the planner believes', async () => plan(await open(), 20_000))

  test('a topic that takes nothing has 120,000 rows at the head: the others go on', async () => others(await open(), 120_000))

  test('the same when each message of the others fails once too', async () => others(await open(), 120_000, true))

  test('what waits behind a parked row is not read to see whether it is free, and brought back by the index', async () => restorePlan(await open(), 30_000))

  test('thousands that waited come back in steps: their key keeps its order', async () => releaseOfMany(await open(), 5_000))

  test('the first event of a fresh outbox goes out, though the relay has looked at nothing for a while', async () => {
    const h = await open()
    let looks = 0
    const spy: SqlClient = {
      query: (text, values) => {
        if (text.includes('pg_locks')) looks++
        return h.db.query(text, values)
      },
    }
    const broker = testBroker()
    await moving(h, 1, { db: spy, publisher: broker, pollMs: 5 }, async () => {
      await waitUntil(() => looks >= 4, { what: 'the relay to know what is behind it' })
      await h.transaction((tx) => h.outbox.add(tx, message('k', 'first')))
      const before = looks
      await waitUntil(() => broker.sent.length === 1 || looks > before + 20, { what: 'the event' })
      assert.equal(broker.sent.length, 1, 'the lowest id was taken for one that nobody can have any more')
    })
  })

  test('while a long transaction keeps deleted rows in the table, reading starts behind them, and the alarm names it', async () => {
    const h = await open()
    const holder = await h.database.pool!.connect()
    try {
      await holder.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1')
      const { rows } = await holder.query('SELECT pg_backend_pid() AS pid')
      const lows: number[][] = []
      const spy: SqlClient = {
        query: (text, values) => {
          if (text.includes('outbox_next')) lows.push(values![3] as number[])
          return h.db.query(text, values)
        },
      }
      const alarms: Alarm[] = []
      const broker = testBroker()
      await moving(h, 1, { db: spy, publisher: broker, alarmMs: 1, hooks: { onAlarm: (alarm) => alarms.push(alarm) } }, async () => {
        for (let n = 0; n < 10; n++)
          await h.transaction((tx) =>
            h.outbox.add(
              tx,
              Array.from({ length: 500 }, (_, i) => message(`k${i}`, 'x')),
            ),
          )
        await waitUntil(() => broker.sent.length === 5_000 && Math.min(...(lows.at(-1) ?? [0])) >= 5_000, {
          what: 'every partition to be read from behind the last row',
        })
        await h.transaction((tx) => h.outbox.add(tx, message('k', 'new')))
        await waitUntil(() => broker.texts().includes('new'))
        await waitUntil(() => alarms.some((alarm) => alarm.kind === 'long-transaction'))
      })
      assert.equal(alarms.find((alarm) => alarm.kind === 'long-transaction')!.pid, (rows[0] as { pid: number }).pid)
    } finally {
      await holder.query('ROLLBACK')
      holder.release()
    }
  })

  test('NOTIFY wakes a relay of another process', async () => {
    const { schema, database } = await open()
    const outbox = createOutbox({ schema, notify: true })
    const h = { ...(await open()), outbox, schema }
    const broker = testBroker()
    await moving(h, 1, { publisher: broker, pollMs: 600_000, wake: 'poll+notify', listen: database.listen! }, async ([one]) => {
      await waitUntil(() => one!.stats().partitions === 16)
      await database.transaction((tx) => outbox.add(tx, message('k', 'x')))
      await waitUntil(() => broker.sent.length === 1)
    })
  })

  test('an outbox may have one partition', async () => {
    const { database } = await open()
    const outbox = createOutbox({ schema: 'alone', partitions: 1 })
    await database.client.query(outbox.schema())
    const broker = testBroker()
    const one = relay({ db: database.client, outbox, publisher: broker, pollMs: 5 })
    await one.start()
    await database.transaction((tx) => outbox.add(tx, [message('a', '1'), message('b', '2')]))
    await waitUntil(() => broker.sent.length === 2 || one.stats().state === 'database-down')
    assert.deepEqual(broker.texts(), ['1', '2'])
    await one.close()
  })

  test('tables that are not there are said by whatever looks for them, with what to run', async () => {
    const { database } = await open()
    const { client, transaction } = database
    const outbox = createOutbox({ schema: 'nowhere' })
    const inbox = createInbox({ schema: 'nowhere' })
    const missing = (what: string): object => ({
      code: 'ERR_OUTBOX_SCHEMA',
      retryable: false,
      message: `The tables of ${what} nowhere.${what} are missing or of another version: run await db.query(${what}.schema()), in a migration or at start`,
    })
    const calls: [what: string, call: () => Promise<unknown>][] = [
      ['outbox', () => transaction((tx) => outbox.add(tx, message('k', 'x')))],
      ['outbox', () => transaction((tx) => outbox.add(tx, message('k', 'x'), { deliverAt: 0 }))],
      ['outbox', () => outbox.counts(client)],
      ['outbox', () => outbox.parked(client).list()],
      ['outbox', () => outbox.parked(client).release([1])],
      ['outbox', () => outbox.parked(client).discard([1])],
      ['inbox', () => transaction((tx) => inbox.once(tx, 'm', 'h', async () => 1))],
      ['inbox', () => inbox.runner(transaction).run({ id: 'm' }, 'h', async () => 1)],
      ['inbox', () => inbox.cleanup(client)],
    ]
    for (const [what, call] of calls) await assert.rejects(call, missing(what), String(call))
    await client.query(inbox.schema())
    const theirs = transaction((tx) => inbox.once(tx, 'm', 'h', () => tx.query('SELECT * FROM nowhere.else')))
    await assert.rejects(theirs, { code: '42P01' }, "a handler's own missing table is its own")
    const early = relay({ db: database.client, outbox, publisher: testBroker() })
    await assert.rejects(early.start(), missing('outbox'))
    await database.client.query(outbox.schema())
    await early.start()
    await early.close()
  })

  test('every message is delivered to a handler twice, and has one effect', async () => {
    const h = await open()
    await h.db.query(`CREATE TABLE ${h.schema}.effect (id text)`)
    const handle = (m: PublishedMessage): Promise<unknown> =>
      h.transaction((tx) => h.inbox.once(tx, m, 'effect', () => tx.query(`INSERT INTO ${h.schema}.effect VALUES ($1)`, [textOf(m)])))
    const publish = (m: PublishedMessage): Promise<unknown> => Promise.all([handle(m), handle(m)])
    await h.transaction((tx) =>
      h.outbox.add(
        tx,
        Array.from({ length: 200 }, (_, n) => message(`k${n % 7}`, String(n))),
      ),
    )
    await moving(h, 2, { publisher: { publish } }, () => waitUntil(async () => (await h.outbox.counts(h.db)).pending === 0))
    const { rows } = await h.db.query(`SELECT count(*)::int AS n, count(DISTINCT id)::int AS ids FROM ${h.schema}.effect`)
    assert.deepEqual(rows, [{ n: 200, ids: 200 }])
  })
})
