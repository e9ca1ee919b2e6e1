// What must hold whatever happens, each as a function of how much: `npm test` runs it small on PostgreSQL 18, the server suites run it large on every version.
// Has no tests of its own.
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Pool } from 'pg'
import { waitUntil } from '../../../../tests/kit/wait-until.ts'
import { failing, message, type schemas, testBroker } from './harness.test.ts'
import { relay, type Relay, type RelayOptions, type SqlClient } from './index.ts'

export type Harness = Awaited<ReturnType<ReturnType<typeof schemas>['open']>>

/** Runs relays until `fn` is done. */
export async function moving<T>(
  h: Harness,
  n: number,
  options: Omit<RelayOptions, 'db'> & { db?: SqlClient },
  fn: (relays: readonly Relay[]) => Promise<T>,
): Promise<T> {
  const relays = Array.from({ length: n }, () => relay({ db: h.db, outbox: h.outbox, pollMs: 5, leaseMs: 1_000, ...options }))
  try {
    await Promise.all(relays.map((one) => one.start()))
    return await fn(relays)
  } finally {
    await Promise.all(relays.map((one) => one.close()))
  }
}

/**
 * Writers change a row under its lock, then add; they hold their transactions open for a while, so that ids commit in another order than they were taken, and every fifth rolls back.
 * The counter that each writes under the lock is the true order of its key.
 */
export async function commitOrder(
  h: Harness,
  { relays, writers, transactions, keys }: { relays: number; writers: number; transactions: number; keys: number },
): Promise<void> {
  await h.db.query(`CREATE TABLE ${h.schema}.counter (key text PRIMARY KEY, n integer)`)
  await h.db.query(`INSERT INTO ${h.schema}.counter SELECT 'k' || i, 0 FROM generate_series(0, ${keys - 1}) i`)
  const broker = testBroker()
  let committed = 0
  const write = async (writer: number): Promise<void> => {
    for (let i = 0; i < transactions; i++) {
      const key = `k${(writer * 7 + i * 3) % keys}`
      const rollBack = i % 5 === 4
      await h
        .transaction(async (tx) => {
          await h.outbox.add(tx, message(undefined, 'unkeyed')) // Takes an id before the lock is had.
          const { rows } = await tx.query(`UPDATE ${h.schema}.counter SET n = n + 1 WHERE key = $1 RETURNING n`, [key])
          await h.outbox.add(tx, message(key, String((rows[0] as { n: number }).n)))
          if (i % 3 === 0) await sleep(Math.random() * 10)
          if (rollBack) throw new Error('roll back')
          committed++
        })
        .catch((error: Error) => assert.equal(error.message, 'roll back'))
    }
  }
  await moving(h, relays, { publisher: broker, batch: 20 }, async () => {
    await Promise.all(Array.from({ length: writers }, (_, writer) => write(writer)))
    await waitUntil(() => new Set(broker.sent.map((m) => m.id)).size >= 2 * committed, {
      what: `${2 * committed} messages, of which ${broker.sent.length} came`,
    })
  })
  assert.equal(new Set(broker.sent.map((m) => m.id)).size, 2 * committed)
  const { rows } = await h.db.query(`SELECT key, n FROM ${h.schema}.counter`)
  for (const { key, n } of rows as { key: string; n: number }[])
    assert.deepEqual(
      [...new Set(broker.texts(key))],
      Array.from({ length: n }, (_, i) => String(i + 1)),
      key,
    )
}

/** Writers go on all the while; for `outageMs` in the middle the broker takes nothing. */
export async function outage(h: Harness, { outageMs, relays }: { outageMs: number; relays: number }): Promise<void> {
  let state: 'up' | 'down' | 'over' = 'up'
  const broker = testBroker(() =>
    state === 'down' ? { status: Math.random() < 0.5 ? 'unknown' : 'rejected', error: Object.assign(new Error('down'), { retryable: true }) } : undefined,
  )
  const sequence = Array.from({ length: 20 }, () => 0)
  const write = async (): Promise<void> => {
    while (state !== 'over') {
      const key = Math.floor(Math.random() * 20)
      // The number is taken and added without waiting in between, and a key has one writer at a time: its order is that of the numbers.
      if (locked.has(key)) {
        await sleep(1)
        continue
      }
      locked.add(key)
      await h.transaction((tx) => h.outbox.add(tx, [message(`k${key}`, String(sequence[key]!++)), message(`k${key}`, String(sequence[key]!++))]))
      locked.delete(key)
    }
  }
  const locked = new Set<number>()
  await moving(h, relays, { publisher: broker }, async (running) => {
    const writing = Promise.all([write(), write()])
    await waitUntil(() => broker.sent.length > 50)
    state = 'down'
    const before = broker.sent.length
    await sleep(outageMs)
    assert.equal(broker.sent.length, before)
    assert.ok(running.some((one) => one.stats().state === 'broker-down'))
    state = 'up'
    await waitUntil(() => broker.sent.length > before, { what: 'work to resume' })
    state = 'over'
    await writing
    const total = sequence.reduce((sum, n) => sum + n, 0)
    await waitUntil(() => broker.sent.length >= total, { guardMs: 120_000, what: `${total} messages` })
    assert.equal(new Set(broker.sent.map((m) => m.id)).size, total)
    const { parked, blocked } = await h.outbox.counts(h.db)
    assert.deepEqual([parked, blocked], [0, 0])
  })
  for (const [key, n] of sequence.entries())
    assert.deepEqual(
      [...new Set(broker.texts(`k${key}`))],
      Array.from({ length: n }, (_, i) => String(i)),
    )
}

/** Whatever the planner believes of the table, a turn reads its batch by the index and nothing else. */
export async function plan(h: Harness, backlog: number): Promise<void> {
  const client = await (h.database.client as Pool).connect()
  const notices: string[] = []
  const onNotice = ({ message: text }: { message?: string | undefined }): unknown => notices.push(text ?? '')
  client.on('notice', onNotice)
  try {
    const fill = (n: number): Promise<unknown> =>
      client.query(
        `INSERT INTO ${h.schema}.outbox (message_id, topic, key, value) SELECT 'm' || i, 'test', 'k' || i % 1000, convert_to(repeat('x', 200), 'UTF8') FROM generate_series(1, $1::int) i`,
        [n],
      )
    const { queue } = h.outbox.store
    const from = Array.from({ length: 16 }, (_, partition) => ({ partition, low: 0 }))
    let done: Awaited<ReturnType<typeof queue.next>> = []
    const counters = async (): Promise<{ seq: number; idx: number }> => {
      const { rows } = await client.query(
        `SELECT seq_scan::int AS seq, idx_tup_fetch::int AS idx FROM pg_stat_xact_user_tables WHERE relid = '${h.schema}.outbox'::regclass`,
      )
      return rows[0] as { seq: number; idx: number }
    }
    const turn = async (when: string, lanes: readonly string[] = [], few = false): Promise<void> => {
      notices.length = 0
      await client.query('BEGIN')
      await client.query(
        "SET LOCAL auto_explain.log_min_duration = 0; SET LOCAL auto_explain.log_analyze = on; SET LOCAL auto_explain.log_nested_statements = on; SET LOCAL client_min_messages = 'log'",
      )
      const before = await counters()
      const rows = await queue.next(client, { done, from, except: { lanes, topics: [] }, limit: 500, limitBytes: 1e9, few })
      const read = await counters()
      await client.query('COMMIT')
      done = rows
      assert.equal(rows.length, 500, when)
      assert.equal(read.seq - before.seq, 0, `${when}: the table was read whole`)
      // Who expects few reads a batch of each partition, once.
      assert.ok(read.idx - before.idx <= (few ? 16 * 500 : 500) + 600, `${when}: ${read.idx - before.idx} rows were read for 500`)
      const plans = notices.filter((notice) => /"outbox" (WHERE ctid|t WHERE|WHERE partition)/.test(notice)).join('\n')
      const ordered = few ? /Nested Loop\s[\s\S]*Index Scan using outbox_pkey/ : /Merge Append\s[\s\S]*Index Scan using outbox_pkey/
      assert.ok(ordered.test(plans), `${when}: no ordered index scans in ${plans.slice(0, 5_000)}`)
      const [other] = /Seq Scan|Bitmap Heap Scan|Hash Join/.exec(plans) ?? (few ? null : /Sort Method/.exec(plans)) ?? []
      assert.equal(other, undefined, when)
      if (lanes.length > 0) assert.match(plans, /hashed SubPlan/, `${when}: each row is compared with each lane`)
    }
    await client.query("LOAD 'auto_explain'")
    await client.query(`ANALYZE ${h.schema}.outbox`)
    await fill(backlog)
    for (let i = 0; i < 8; i++) await turn(`analyzed when empty, turn ${i}`)
    await client.query(`ANALYZE ${h.schema}.outbox`)
    await turn('analyzed when full')
    await turn(
      'lanes left out',
      Array.from({ length: 1_000 }, (_, i) => `other/${i}`),
    )
    await client.query(`DELETE FROM ${h.schema}.outbox WHERE id % 10000 <> 0`)
    await client.query(`VACUUM ANALYZE ${h.schema}.outbox`)
    await fill(backlog)
    done = []
    await turn('emptied, analyzed, and full again')
    await turn('as if there were few', [], true)
  } finally {
    client.off('notice', onNotice)
    client.release(true)
  }
}

/** However many rows of a topic that takes nothing stand at the head, the others go on. */
export async function others(h: Harness, n: number, fails = false): Promise<void> {
  const fill = `INSERT INTO ${h.schema}.outbox (message_id, topic, key, value) SELECT 'm' || i, 'bad', 'k' || i % 5000, 'x' FROM generate_series(1, $1::int) i`
  await h.db.query(fill, [n])
  const tried = new Set<string>()
  const broker = testBroker(({ id }) => (fails && tried.size < tried.add(id).size ? { status: 'unknown', error: failing(true) } : undefined))
  const publishBatch: typeof broker.publishBatch = async (messages) => {
    if (messages.some(({ topic }) => topic === 'bad')) throw failing(true)
    return broker.publishBatch(messages)
  }
  await moving(h, 1, { publisher: { publishBatch } }, async () => {
    for (let i = 0; i < 5; i++) {
      await h.transaction((tx) => h.outbox.add(tx, message(`k${i}`, String(i))))
      await waitUntil(() => broker.sent.length === i + 1, { guardMs: 30_000, what: `message ${i} behind ${n} of a topic that takes nothing` })
    }
  })
  assert.deepEqual(broker.texts(), ['0', '1', '2', '3', '4'])
}

/** However many rows wait behind a parked one, a look at them reads few, and so does each step that brings them back. */
export async function restorePlan(h: Harness, n: number): Promise<void> {
  const client = await (h.database.client as Pool).connect()
  try {
    const { leases, queue } = h.outbox.store
    const held = await leases.claim(client, 'a', 600_000, (await leases.renew(client, 'a', 600_000)).free)
    const counters = async (): Promise<{ scans: number; read: number }> => {
      const { rows } = await client.query(
        `SELECT seq_scan::int AS scans, (seq_tup_read + idx_tup_fetch)::int AS read FROM pg_stat_xact_user_tables WHERE relid = '${h.schema}.outbox_held'::regclass`,
      )
      return rows[0] as { scans: number; read: number }
    }
    let known: ReadonlyMap<string, number> | undefined
    const restore = async (when: string, moves: number, skip = false): Promise<void> => {
      await client.query('BEGIN')
      const before = await counters()
      const { moved, blocked } = await queue.restore(client, held, { skip, known })
      const after = await counters()
      await client.query('COMMIT')
      known = blocked
      assert.equal(moved, moves, when)
      assert.equal(after.scans - before.scans, 0, `${when}: the table was read whole`)
      assert.ok(after.read - before.read <= 4 * moves + 200, `${when}: ${after.read - before.read} rows were read for ${moves}`)
    }
    const fill = (): Promise<unknown> =>
      client.query(
        `INSERT INTO ${h.schema}.outbox_held (message_id, topic, key, value, state, error_code, error_message)
         SELECT 'm' || i, 'test', 'k' || i % 3, 'x', CASE WHEN i <= 3 THEN 'parked' ELSE 'blocked' END, 'c', 'm' FROM generate_series(1, $1::int) i`,
        [n],
      )
    const parked = async (): Promise<number[]> => (await h.outbox.parked(client).list()).map(({ id }) => id)
    await fill()
    await restore('seen for the first time', 0)
    await restore('nothing to do', 0)
    await client.query(`ANALYZE ${h.schema}.outbox_held`)
    await restore('analyzed', 0)
    await h.outbox.parked(client).release((await parked()).slice(0, 1))
    for (let i = 0; i < 3; i++) await restore('one of three released', 1_000)
    await h.outbox.parked(client).discard((await parked()).slice(0, 1))
    for (let i = 0; i < 3; i++) await restore('one of three discarded', 1_000)
    for (const rest of [n - 6_002, 0]) await restore('nothing kept back', rest, true) // But the discarded and the parked one.
    known = undefined
    await client.query(`DELETE FROM ${h.schema}.outbox_held`)
    await client.query(`VACUUM ANALYZE ${h.schema}.outbox_held`)
    await fill()
    await restore('analyzed when empty', 0)
    await restore('nothing to do again', 0)
  } finally {
    client.release(true)
  }
}

/** Thousands wait behind a parked row; while they come back in steps, younger ones are added and one of the old is parked again: the key keeps its order. */
export async function releaseOfMany(h: Harness, n: number): Promise<void> {
  let poison = '0'
  const refused = new Set<string>()
  const broker = testBroker((m) => {
    if (Buffer.from(m.value).toString() !== poison) return undefined
    refused.add(poison)
    return { status: 'rejected', error: Object.assign(new Error('no'), { retryable: false }) }
  })
  let added = 0
  const add = (): Promise<unknown> => h.transaction((tx) => h.outbox.add(tx, message('k', String(added++))))
  await moving(h, 2, { publisher: broker, maxAttempts: 1 }, async () => {
    await add()
    await waitUntil(async () => (await h.outbox.counts(h.db)).parked === 1)
    await h.db.query(
      `INSERT INTO ${h.schema}.outbox_held (message_id, topic, key, value, state) SELECT 'm' || i, 'test', 'k', convert_to(i::text, 'UTF8'), 'blocked' FROM generate_series(1, $1::int) i`,
      [n],
    )
    added += n
    for (const next of [String(Math.floor(n / 2)), 'none']) {
      poison = next
      const parked = await h.outbox.parked(h.db).list()
      await h.outbox.parked(h.db).release(parked.map((row) => row.id))
      await waitUntil(
        async () => {
          await add()
          return next === 'none' ? broker.sent.length > n : refused.has(next)
        },
        { what: `what waited to be sent, ${next}` },
      )
      await waitUntil(async () => next === 'none' || (await h.outbox.counts(h.db)).parked === 1)
    }
    await waitUntil(() => new Set(broker.texts()).size >= added, { what: 'the rest' })
  })
  assert.deepEqual(
    [...new Set(broker.texts('k'))],
    Array.from({ length: added }, (_, i) => String(i)),
  )
}
