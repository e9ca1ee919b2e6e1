import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { deferred } from '#internal/abort'
import { systemClock } from '#internal/clock'
import { openDatabase } from '@core-backend/testkit/postgres'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { createBroker } from './broker.ts'
import type { Delivery, OutgoingMessage } from './driver.ts'
import { ids, killable, member, never, outgoing, series, tampered } from './postgres.fixture.ts'
import { postgresDriver } from './postgres.ts'

const db = await openDatabase('pg18', { max: 30 })
after(() => db.close())

/** Each test has tables of its own. */
let schemas = 0
const freshSchema = (): string => `t${++schemas}`
const one = { partitions: 1, keep: false, maxAgeMs: undefined }
const four = { partitions: 4, keep: false, maxAgeMs: undefined }
const sql = async <Row>(text: string, values?: unknown[]): Promise<Row[]> => (await db.client.query(text, values)).rows as Row[]
const lostAnswer = (): Error => Object.assign(new Error('Connection terminated unexpectedly'), { code: 'ECONNRESET' })

// Publishing.

test('a publish whose answer is lost is sent again and stored once', async () => {
  const name = freshSchema()
  let lose = 2
  const client = tampered(db.client, /^SELECT \S+\.publish\(/, async (send) => {
    const answer = await send()
    if (lose-- > 0) throw lostAnswer()
    return answer
  })
  const driver = postgresDriver({ client, schema: name })
  await driver.admin.createTopic('orders', four)
  const results = await driver.publish(series('orders', 50), { signal: never })
  assert.ok(results.every(({ status }) => status === 'stored'))
  assert.equal(lose, -1)
  assert.deepEqual(await sql(`SELECT count(*)::int AS n, count(DISTINCT id)::int AS ids FROM ${name}.messages`), [{ n: 50, ids: 50 }])
  await driver.close()
})

test('a statement that reaches the server after its repetition, or after the next batch, stores nothing', async () => {
  const name = freshSchema()
  const late: (() => Promise<unknown>)[] = []
  let hold = true
  const client = tampered(db.client, /^SELECT \S+\.publish\(/, async (send) => {
    if (!hold) return send()
    hold = false
    late.push(send)
    throw lostAnswer()
  })
  const driver = postgresDriver({ client, schema: name })
  await driver.admin.createTopic('orders', one)
  await driver.publish([outgoing('orders', 'a')], { signal: never })
  await late.pop()!()
  hold = true
  const gaveUp = AbortSignal.timeout(1)
  const [unknown] = await driver.publish([outgoing('orders', 'b')], { signal: AbortSignal.any([gaveUp]) })
  await driver.publish([outgoing('orders', 'c')], { signal: never })
  for (const send of late) await send()
  const stored = await sql<{ id: string }>(`SELECT id FROM ${name}.messages ORDER BY "offset"`)
  // b was tried again unless its time was up first; what came late changed nothing either way.
  assert.deepEqual(
    stored.map(({ id }) => id),
    unknown!.status === 'stored' ? ['a', 'b', 'c'] : ['a', 'c'],
  )
  await driver.close()
})

test('a repetition that meets its first try still at work waits for it', async () => {
  const name = freshSchema()
  const patient = postgresDriver({ client: db.client, schema: name })
  await patient.admin.createTopic('orders', one)
  const driver = postgresDriver({ client: db.client, schema: name, statementMs: 300 })
  await waitUntil(() =>
    driver.admin.topics().then(
      () => true,
      () => false,
    ),
  )
  const blocker = await db.pool!.connect()
  await blocker.query('BEGIN')
  await blocker.query(`SELECT FROM ${name}.partitions FOR UPDATE`)
  const publishing = driver.publish([outgoing('orders', 'a')], { signal: never })
  await waitUntil(async () => {
    const [row] = await sql<{ n: number }>(
      `SELECT count(*)::int AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"${name}".publish(%'`,
    )
    return row!.n >= 2
  })
  await blocker.query('COMMIT')
  blocker.release()
  assert.equal((await publishing)[0]!.status, 'stored')
  await waitUntil(async () => (await sql(`SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"${name}".publish(%'`)).length === 0)
  assert.deepEqual(await sql(`SELECT id FROM ${name}.messages`), [{ id: 'a' }])
  await driver.close()
})

test('rejected is certain, unknown is not', async () => {
  const name = freshSchema()
  const refusal = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
  let failure: Error | undefined
  const driver = postgresDriver({
    schema: name,
    client: tampered(db.client, /^SELECT \S+\.publish\(/, (send) => (failure ? Promise.reject(failure) : send())),
  })
  await driver.admin.createTopic('orders', one)
  const attempt = async (error: Error): Promise<string> => {
    failure = error
    const [result] = await driver.publish([outgoing('orders', 'a')], { signal: AbortSignal.timeout(60) })
    return result!.status
  }
  assert.equal(await attempt(refusal), 'rejected')
  assert.equal(await attempt(lostAnswer()), 'unknown')
  // The server says its severity in the language of its settings.
  for (const severity of ['ERROR', 'FEHLER', 'ОШИБКА'])
    assert.equal(await attempt(Object.assign(new Error('permission denied'), { code: '42501', severity })), 'rejected')
  for (const severity of ['FATAL', 'ВАЖНО'])
    assert.equal(await attempt(Object.assign(new Error('terminating connection'), { code: '57P01', severity })), 'unknown')
  const [missing] = await driver.publish([outgoing('nowhere', 'a')], { signal: never })
  assert.ok(missing!.status === 'rejected' && (missing!.error as { code: string }).code === 'ERR_MESSAGING_TOPIC_NOT_FOUND')
  await driver.close()
})

test('publishers that take many partitions in different orders never wait for each other in a circle, and offsets have no gaps', async () => {
  const name = freshSchema()
  const drivers = Array.from({ length: 6 }, () => postgresDriver({ client: db.client, schema: name }))
  const topics = ['a', 'b', 'c']
  await Promise.all(topics.map((topic) => drivers[0]!.admin.createTopic(topic, four)))
  const before = (await sql<{ n: string }>(`SELECT deadlocks AS n FROM pg_stat_database WHERE datname = current_database()`))[0]!.n
  await Promise.all(
    drivers.map(async (driver, d) => {
      for (let round = 0; round < 15; round++) {
        const batch = topics.flatMap((topic) => series(topic, 8, `${d}-${round}-`, { dedupeId: undefined }))
        if (d % 2) batch.reverse()
        const specials = batch.map((message, i): OutgoingMessage => (i % 5 === 0 ? { ...message, dedupeId: `${round}-${i}` } : message))
        for (const result of await driver.publish(d % 3 === 0 ? specials : batch, { signal: never })) assert.equal(result.status, 'stored')
      }
    }),
  )
  assert.equal((await sql<{ n: string }>(`SELECT deadlocks AS n FROM pg_stat_database WHERE datname = current_database()`))[0]!.n, before)
  const gaps = await sql(`SELECT p.id FROM ${name}.partitions p LEFT JOIN ${name}.messages m ON m.pid = p.id
    GROUP BY p.id HAVING p.next <> count(m.*) OR coalesce(max(m."offset"), -1) <> p.next - 1 OR min(m."offset") > 0`)
  assert.deepEqual(gaps, [])
  await Promise.all(drivers.map((driver) => driver.close()))
})

test('no reader ever sees an offset whose predecessor commits later, whoever else writes', async () => {
  const name = freshSchema()
  const drivers = Array.from({ length: 4 }, () => postgresDriver({ client: db.client, schema: name }))
  await drivers[0]!.admin.createTopic('orders', one)
  let writing = true
  const writers = drivers.map(async (driver, d) => {
    for (let i = 0; i < 40; i++) await driver.publish(series('orders', 3, `${d}-${i}-`), { signal: never })
  })
  const reader = (async () => {
    let looks = 0
    while (writing) {
      const [row] = await sql<{ n: number; top: number }>(`SELECT count(*)::int AS n, coalesce(max("offset") + 1, 0)::int AS top FROM ${name}.messages`)
      assert.equal(row!.n, row!.top)
      looks++
    }
    return looks
  })()
  await Promise.all(writers)
  writing = false
  assert.ok((await reader) > 0)
  await Promise.all(drivers.map((driver) => driver.close()))
})

test('an unrelated write transaction that stays open holds nothing back', async () => {
  const name = freshSchema()
  await sql('CREATE TABLE IF NOT EXISTS unrelated (n integer)')
  const other = await db.pool!.connect()
  await other.query('BEGIN')
  await other.query('INSERT INTO unrelated VALUES (1)')
  const driver = postgresDriver({ client: db.client, schema: name })
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  await driver.publish(series('orders', 20), { signal: never })
  const reader = await member(driver, 'orders', 'g')
  const deliveries = await reader.take(20)
  assert.equal(deliveries.length, 20)
  assert.deepEqual(await reader.settle(deliveries), ['settled'])
  await other.query('ROLLBACK')
  other.release()
  await reader.leave()
  await driver.close()
})

test('of many processes that publish one dedupeId at once, one stores it', async () => {
  const name = freshSchema()
  const drivers = Array.from({ length: 5 }, () => postgresDriver({ client: db.client, schema: name }))
  await drivers[0]!.admin.createTopic('orders', four)
  const results = await Promise.all(
    drivers.map((driver, d) =>
      driver.publish([outgoing('orders', `x${d}`, { dedupeId: 'x' }), outgoing('orders', `y${d}`, { dedupeId: 'y' }), outgoing('orders', `z${d}`)], {
        signal: never,
      }),
    ),
  )
  assert.equal(results.flat().filter((result) => result.status === 'stored' && result.duplicate).length, 8)
  assert.deepEqual(await sql(`SELECT count(*)::int AS n FROM ${name}.messages`), [{ n: 7 }])
  await sql(`UPDATE ${name}.dedupe SET expires_at = now() - interval '1 second'`)
  const [later] = await drivers[0]!.publish([outgoing('orders', 'x9', { dedupeId: 'x' })], { signal: never })
  assert.ok(later!.status === 'stored' && !later!.duplicate)
  await Promise.all(drivers.map((driver) => driver.close()))
})

test('what no text column can hold comes back as it was', async () => {
  const name = freshSchema()
  const driver = postgresDriver({ client: db.client, schema: name })
  await driver.admin.createTopic('orders', one)
  const strange = [
    outgoing('orders', 'i\0d', { key: 'a\0b', headers: { x: 'ü"\\{}' } }),
    outgoing('orders', 'lone', { key: '\ud800', rawKey: new Uint8Array([0, 255]), rawHeaders: [['X\0', new Uint8Array([1, 0])]] }),
    outgoing('orders', '', { key: '', value: new Uint8Array([0, 255, 39, 92]) }),
    outgoing('orders', 'gone', { tombstone: true, value: new Uint8Array(0) }),
    outgoing('orders', 'empty', { value: new Uint8Array(0), timestamp: -1.5 }),
  ]
  await driver.publish(strange, { signal: never })
  const entries = await driver.log.read('orders', 0, undefined, 10, Infinity)
  assert.deepEqual(
    entries.map(({ message }) => ({ ...message, value: [...message.value] })),
    strange.map(({ topic: _, deliverAt: __, dedupeId: ___, value, rawKey, rawHeaders, ...rest }) => ({
      ...rest,
      idStable: true,
      value: [...value],
      ...(rest.id === 'lone' || rest.id === 'i\0d' ? { rawKey, rawHeaders } : {}),
    })),
  )
  const [bad, behind, beside] = await driver.publish(
    [outgoing('orders', 'a', { key: 'k', timestamp: NaN }), outgoing('orders', 'b', { key: 'k' }), outgoing('orders', 'c')],
    { signal: never },
  )
  assert.deepEqual([bad!.status, behind!.status, beside!.status], ['rejected', 'rejected', 'stored'])
  await driver.close()
})

test('a batch of many megabytes takes several statements, and after a failure none stores a later message of the same key', async () => {
  const name = freshSchema()
  let statements = 0
  const client = tampered(db.client, /^SELECT \S+\.publish\(/, async (send) => {
    if (++statements === 2) throw Object.assign(new Error('no'), { code: '22000', severity: 'ERROR' })
    return send()
  })
  const driver = postgresDriver({ client, schema: name })
  await driver.admin.createTopic('orders', four)
  const value = new Uint8Array(3_000_000)
  const batch = ['a', 'b', 'c', 'b', 'a', 'c'].map((key, i) => outgoing('orders', String(i), { key, value }))
  const results = await driver.publish(batch, { signal: never })
  assert.deepEqual(
    results.map(({ status }) => status),
    ['stored', 'stored', 'rejected', 'rejected', 'stored', 'rejected'],
  )
  assert.deepEqual(await sql(`SELECT id FROM ${name}.messages ORDER BY id`), [{ id: '0' }, { id: '1' }, { id: '4' }])
  await driver.close()
})

// Consuming.

test('a process that dies leaves its window suspect; one that lets go does not', async () => {
  const name = freshSchema()
  const first = killable(db.client, { schema: name, leaseMs: 400 })
  await first.driver.admin.createTopic('orders', one)
  await first.driver.admin.createGroup('orders', 'g', 'earliest')
  await first.driver.publish(series('orders', 10), { signal: never })
  const dead = await member(first.driver, 'orders', 'g')
  const handed = await dead.take(4)
  await waitUntil(async () => (await sql(`SELECT FROM ${name}.handed WHERE below = 8`)).length === 1)
  await dead.consumption.settle([{ partition: 0, epoch: handed[0]!.epoch, watermark: handed[0], above: [handed[2]!], settled: [] }])
  first.kill()

  await waitUntil(async () => (await sql(`SELECT FROM ${name}.cursors WHERE expires_at <= clock_timestamp()`)).length === 1)
  const second = postgresDriver({ client: db.client, schema: name, leaseMs: 60_000 })
  const heir = await member(second, 'orders', 'g')
  assert.deepEqual([...heir.held], [[0, 2]])
  const rest = await heir.take(8)
  assert.deepEqual(ids(rest), ['1', '3', '4', '5', '6', '7', '8', '9'])
  assert.deepEqual(
    rest.map(({ suspect }) => suspect),
    // The four handed over, and the four that were read ahead.
    [true, true, true, true, true, true, false, false],
  )
  assert.equal(await heir.consumption.begin(rest[0]!), 1)
  assert.equal(await heir.consumption.begin(rest[0]!), 2)
  assert.equal(await heir.consumption.begin(rest[1]!), 1)
  // Up to 3, and what the dead one had settled beyond: progress stands before 4.
  await heir.settle(rest.slice(0, 2))
  assert.deepEqual(await sql(`SELECT watermark::int, above FROM ${name}.cursors`), [{ watermark: 4, above: null }])
  assert.deepEqual(await sql(`SELECT * FROM ${name}.starts`), [])
  assert.deepEqual(await second.admin.groups('orders'), [{ group: 'g', members: 1, lag: 6, oldestAt: 1_700_000_000_000, approximate: false }])
  await heir.leave()

  // What the heir took over as suspect and did not come to stays so; what it was handed besides does not become so.
  const third = await member(second, 'orders', 'g')
  assert.deepEqual(
    (await third.take(6)).map(({ suspect }) => suspect),
    [true, true, true, true, false, false],
  )
  await third.leave()
  await second.close()
  await first.driver.close()
})

test('after large bodies fewer are asked for, and all come', async () => {
  const name = freshSchema()
  const asked: number[] = []
  const driver = postgresDriver({
    schema: name,
    client: {
      query: (text, values) => {
        if (/^SELECT .*\.fetch\(/.test(text)) asked.push(Number(String(values![5]).slice(1, -1)))
        return db.client.query(text, values)
      },
    },
  })
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  const value = new Uint8Array(900_000)
  for (let i = 0; i < 4; i++) await driver.publish(series('orders', 10, `${i}-`, { value }), { signal: never })
  const reader = await member(driver, 'orders', 'g')
  const taken: Delivery[] = []
  while (taken.length < 40) taken.push(...(await reader.consumption.fetch(new Map([[0, 20]]), { signal: never })))
  assert.equal(taken.length, 40)
  assert.equal(asked[0], 20)
  assert.ok(
    asked.slice(1).every((n) => n === 9),
    `asked for ${asked.join(', ')}`,
  )
  await reader.leave()
  await driver.close()
})

test('a restarted process of the same name has its partitions back at once, and suspects what it held', async () => {
  const name = freshSchema()
  const first = killable(db.client, { schema: name, member: 'worker-1', leaseMs: 3_600_000 })
  await first.driver.admin.createTopic('orders', four)
  await first.driver.admin.createGroup('orders', 'g', 'earliest')
  await first.driver.publish(series('orders', 8), { signal: never })
  await (await member(first.driver, 'orders', 'g')).take(8)
  first.kill()
  const again = postgresDriver({ client: db.client, schema: name, member: 'worker-1', leaseMs: 3_600_000 })
  const back = await member(again, 'orders', 'g')
  assert.equal(back.held.size, 4)
  assert.ok((await back.take(8)).every(({ suspect, epoch }) => suspect && epoch === 2))
  await back.leave()
  await again.close()
  await first.driver.close()
})

test('the server refuses reading, starting and settling by an owner whose lease is gone', async () => {
  const name = freshSchema()
  const driver = postgresDriver({ client: db.client, schema: name, leaseMs: 3_600_000 })
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  await driver.publish(series('orders', 10), { signal: never })
  const zombie = await member(driver, 'orders', 'g')
  const held = await zombie.take(3)
  await waitUntil(async () => (await sql<{ below: number }>(`SELECT below::int FROM ${name}.handed`))[0]!.below === 6)
  await sql(`UPDATE ${name}.cursors SET epoch = epoch + 1, owner = 'somebody else'`)
  assert.deepEqual(await zombie.settle(held), ['stale'])
  await assert.rejects(zombie.consumption.begin(held[0]!), { code: 'ERR_MESSAGING_OWNERSHIP_LOST' })
  const end = new AbortController()
  // Read ahead while the lease was still its own, as those it holds.
  assert.deepEqual(ids(await zombie.take(3)), ['3', '4', '5'])
  const fetching = zombie.consumption.fetch(new Map([[0, 10]]), { signal: end.signal })
  await waitUntil(async () => (await sql(`SELECT FROM pg_stat_activity WHERE query LIKE '%"${name}".fetch(%'`)).length > 0)
  end.abort()
  assert.deepEqual(await fetching, [])
  assert.deepEqual(await sql(`SELECT watermark::int, below::int FROM ${name}.cursors JOIN ${name}.handed USING (group_id, pid)`), [{ watermark: 0, below: 6 }])
  await zombie.consumption.close()
  await driver.close()
})

test('a settlement that reaches the server after the next one takes nothing back', async () => {
  const name = freshSchema()
  let late: (() => Promise<unknown>) | undefined
  const driver = postgresDriver({
    schema: name,
    client: tampered(db.client, /^SELECT \S+\.settle\(/, (send) => {
      if (late) return send()
      late = send
      return Promise.reject(lostAnswer())
    }),
  })
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  await driver.publish(series('orders', 6), { signal: never })
  const first = await member(driver, 'orders', 'g')
  const taken = await first.take(6)
  const settle = (above: readonly Delivery[]): Promise<unknown> =>
    first.consumption.settle([{ partition: 0, epoch: taken[0]!.epoch, watermark: undefined, above, settled: [] }])
  await assert.rejects(settle(taken.slice(1, 3)), { code: 'ERR_MESSAGING_CONNECTION' })
  assert.deepEqual(await settle(taken.slice(1, 5)), ['settled'])
  await late!()
  await first.leave()
  const second = await member(driver, 'orders', 'g')
  assert.deepEqual(ids(await second.take(2)), ['0', '5'])
  await driver.close()
})

test('a fetch that is given up loses nothing: the next one hands it over', async () => {
  const name = freshSchema()
  const gate = deferred()
  let hold = false
  const client = tampered(db.client, /^SELECT \* FROM \S+\.fetch\(/, async (send) => {
    const answer = await send()
    if (hold) await gate.promise
    return answer
  })
  const driver = postgresDriver({ client, schema: name })
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  await driver.publish(series('orders', 5), { signal: never })
  const reader = await member(driver, 'orders', 'g')
  hold = true
  const end = new AbortController()
  const given = reader.consumption.fetch(new Map([[0, 5]]), { signal: end.signal })
  end.abort()
  assert.deepEqual(await given, [])
  gate.resolve()
  assert.deepEqual(ids(await reader.take(5)), ['0', '1', '2', '3', '4'])
  await reader.leave()
  await driver.close()
})

test('a group that is deleted is told to its readers, also to those that wait', async () => {
  const name = freshSchema()
  const driver = postgresDriver({ client: db.client, schema: name, leaseMs: 200, pollMs: 20 })
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  const reader = await member(driver, 'orders', 'g')
  const waiting = reader.consumption.fetch(new Map([[0, 1]]), { signal: never })
  await driver.admin.deleteGroup('orders', 'g')
  await assert.rejects(waiting, { code: 'ERR_MESSAGING_TOPIC_NOT_FOUND' })
  await waitUntil(() => reader.lost.length > 0)
  await reader.consumption.close()
  await driver.close()
})

test('many processes move what is due once, in the order of its times', async () => {
  const name = freshSchema()
  const drivers = Array.from({ length: 4 }, () => postgresDriver({ client: db.client, schema: name, pollMs: 5, idlePollMs: 20 }))
  await drivers[0]!.admin.createTopic('orders', one)
  await drivers[0]!.admin.createGroup('orders', 'g', 'earliest')
  const due = Date.now() + 300
  const order = Array.from({ length: 40 }, (_, i) => (i * 17) % 40)
  const results = await drivers[0]!.publish(
    order.map((n) => outgoing('orders', String(n), { deliverAt: due + n })),
    { signal: never },
  )
  assert.ok(results.every((result) => result.status === 'stored' && result.position === undefined))
  assert.equal((await drivers[0]!.admin.groups('orders'))[0]!.lag, 40)
  const listeners = await Promise.all(drivers.slice(1).map((driver) => member(driver, 'orders', undefined)))
  const reader = await member(drivers[0]!, 'orders', 'g')
  const heard = await reader.take(40)
  assert.deepEqual(
    ids(heard),
    Array.from({ length: 40 }, (_, n) => String(n)),
  )
  assert.deepEqual(await sql(`SELECT FROM ${name}.delayed`), [])
  for (const listener of listeners) assert.deepEqual(ids(await listener.take(40)), ids(heard))
  await reader.leave()
  await Promise.all(drivers.map((driver) => driver.close()))
})

test('a notification wakes readers that would poll in an hour', async () => {
  const name = freshSchema()
  const slow = { client: db.client, schema: name, pollMs: 3_600_000, idlePollMs: 3_600_000 }
  const publisher = postgresDriver({ ...slow, notify: true })
  const listening = deferred()
  const listener = postgresDriver({
    ...slow,
    listen: async (channel, onWake) => {
      const stop = await db.listen!(channel, onWake)
      listening.resolve()
      return stop
    },
  })
  await publisher.admin.createTopic('orders', one)
  const reader = await member(listener, 'orders', undefined)
  const fetching = reader.consumption.fetch(new Map([[0, 1]]), { signal: never })
  await listening.promise
  await publisher.publish([outgoing('orders', 'a')], { signal: never })
  assert.deepEqual(ids(await fetching), ['a'])
  assert.equal((await listener.ping({ signal: never })).details!['listening'], true)
  await listener.close()
  await publisher.close()
})

test('reading walks the primary keys of all segments, and no further than it must, without statistics too', async () => {
  const name = freshSchema()
  const driver = postgresDriver({ client: db.client, schema: name, leaseMs: 3_600_000 })
  await driver.admin.createTopic('orders', four)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  await sql(`INSERT INTO ${name}.messages SELECT i % 2, p.id, i, 0, i::text, NULL, NULL, '' FROM ${name}.partitions p, generate_series(0, 19999) i`)
  await sql(`UPDATE ${name}.partitions SET next = 20000`)
  const reads = async (): Promise<{ whole: number; rows: number }> => {
    // Every connection of the pool tells what it did.
    await Promise.all(Array.from({ length: 30 }, () => sql('SELECT pg_stat_force_next_flush(), pg_sleep(0.02)')))
    const [row] = await sql<{ whole: string; rows: string }>(
      `SELECT sum(seq_scan) AS whole, sum(idx_tup_fetch) AS rows FROM pg_stat_user_tables WHERE schemaname = '${name}' AND relname LIKE 'messages\\_%'`,
    )
    return { whole: Number(row!.whole), rows: Number(row!.rows) }
  }
  const reader = await member(driver, 'orders', 'g')
  const before = await reads()
  let taken = 0
  for (let i = 0; i < 10; i++) taken += (await reader.take(400)).length
  taken += (await driver.log.read('orders', 2, '15000', 50, Infinity)).length
  const after = await reads()
  assert.equal(after.whole, before.whole)
  // What was read ahead comes on top, and a row of each segment that was looked at in vain.
  const bound = 2 * taken
  assert.ok(after.rows - before.rows <= bound, `${after.rows - before.rows} rows were fetched for ${taken}`)
  await reader.leave()
  await driver.close()
})

test('a blocked fetch tells of an outage, and comes back when it is over', async () => {
  const name = freshSchema()
  let down = false
  const driver = postgresDriver({
    schema: name,
    pollMs: 5,
    idlePollMs: 10,
    client: { query: (text, values) => (down ? Promise.reject(lostAnswer()) : db.client.query(text, values)) },
  })
  await driver.admin.createTopic('orders', one)
  const reader = await member(driver, 'orders', undefined)
  const wants = new Map([[0, 1]])
  const waiting = reader.consumption.fetch(wants, { signal: never })
  down = true
  await assert.rejects(waiting, { code: 'ERR_MESSAGING_CONNECTION' })
  const again = reader.consumption.fetch(wants, { signal: never }).catch((error: unknown) => error)
  down = false
  const answer = await again
  // It failed once more, or was let go as soon as the broker answered.
  assert.ok(answer instanceof Error || (Array.isArray(answer) && answer.length === 0))
  await driver.close()
})

test('after an outage an idle broker is well again', async () => {
  const name = freshSchema()
  let down = false
  const errors: unknown[] = []
  const driver = postgresDriver({
    schema: name,
    pollMs: 5,
    idlePollMs: 10,
    client: { query: (text, values) => (down ? Promise.reject(lostAnswer()) : db.client.query(text, values)) },
  })
  const broker = createBroker(driver, { hooks: { onError: ({ error }) => void errors.push(error) } })
  await broker.subscribe('orders', { group: 'g' }, () => undefined)
  await broker.subscribe('orders', {}, () => undefined)
  for (let round = 1; round <= 3; round++) {
    errors.length = 0
    down = true
    await waitUntil(() => errors.length >= 2 * round)
    down = false
    await waitUntil(async () => (await broker.health()).status === 'ok')
  }
  await broker.close()
})

test('a consumer whose leases cannot be renewed says so, and is well again when they can', async () => {
  const name = freshSchema()
  let refuse = false
  const errors: unknown[] = []
  const driver = postgresDriver({
    schema: name,
    leaseMs: 400,
    client: tampered(db.client, /^WITH beats/, (send) =>
      refuse ? Promise.reject(Object.assign(new Error('cannot execute UPDATE in a read-only transaction'), { code: '25006', severity: 'ERROR' })) : send(),
    ),
  })
  const broker = createBroker(driver, { hooks: { onError: ({ error }) => void errors.push(error) } })
  const subscription = await broker.subscribe('orders', { group: 'g' }, () => undefined)
  refuse = true
  await waitUntil(async () => (await broker.health()).status === 'degraded')
  await waitUntil(() => subscription.stats().partitions === 0)
  assert.match((await broker.health()).error!, /read-only/)
  assert.ok(errors.length > 0)
  refuse = false
  await waitUntil(async () => (await broker.health()).status === 'ok' && subscription.stats().partitions === 5)
  await broker.close()
})

test('health is down when the log is gone, and says so in JSON too', async () => {
  const name = freshSchema()
  const broker = createBroker(postgresDriver({ schema: name, client: db.client }))
  assert.equal((await broker.health()).status, 'ok')
  await sql(`DROP TABLE ${name}.messages CASCADE`)
  const { status, error } = JSON.parse(JSON.stringify(await broker.health())) as { status: string; error: string }
  assert.equal(status, 'down')
  assert.match(error, /messages" does not exist/)
  await broker.close()
})

test('what was asked for while the lease had run out at the server alone comes when it is renewed', async () => {
  const name = freshSchema()
  // The server's clock was set forward, or ours stood still.
  let lapse = true
  const driver = postgresDriver({
    schema: name,
    leaseMs: 1_600,
    client: tampered(db.client, /^SELECT \* FROM \S+\.fetch\(/, async (send) => {
      if (lapse) await sql(`UPDATE ${name}.cursors SET expires_at = clock_timestamp() - interval '1 s'`)
      lapse = false
      return send()
    }),
  })
  const broker = createBroker(driver)
  const seen: string[] = []
  await broker.subscribe('orders', { group: 'g' }, ({ id }) => void seen.push(id))
  await broker.publish({ topic: 'orders', value: new Uint8Array(), id: 'a' })
  await waitUntil(() => seen.length === 1)
  await broker.close()
})

test('who cannot begin to listen leaves nothing behind that asks the server', async () => {
  const name = freshSchema()
  let polls = 0
  const driver = postgresDriver({
    schema: name,
    pollMs: 5,
    idlePollMs: 10,
    client: {
      query: (text, values) => {
        if (text.includes('due_in_ms')) polls++
        return text.startsWith('SELECT id, next') ? Promise.reject(lostAnswer()) : db.client.query(text, values)
      },
    },
  })
  await driver.admin.createTopic('orders', one)
  await assert.rejects(member(driver, 'orders', undefined), { code: 'ERR_MESSAGING_CONNECTION' })
  await sleep(100)
  assert.equal(polls, 0)
  await driver.close()
})

test('a wake that comes while a poll is under way is not lost in it', async () => {
  const name = freshSchema()
  const polling = deferred()
  const goOn = deferred()
  let held = false
  let wake: (() => void) | undefined
  const driver = postgresDriver({
    schema: name,
    pollMs: 3_600_000,
    idlePollMs: 3_600_000,
    listen: async (_channel, onWake) => {
      wake = onWake
      return async () => undefined
    },
    // The first poll has looked, and its answer is on its way.
    client: tampered(db.client, /due_in_ms/, async (send) => {
      const answer = await send()
      if (!held) {
        held = true
        polling.resolve()
        await goOn.promise
      }
      return answer
    }),
  })
  const publisher = postgresDriver({ client: db.client, schema: name })
  await publisher.admin.createTopic('orders', one)
  const reader = await member(driver, 'orders', undefined)
  const fetching = reader.consumption.fetch(new Map([[0, 1]]), { signal: never })
  await waitUntil(() => wake !== undefined)
  wake!()
  await polling.promise
  await publisher.publish([outgoing('orders', 'a')], { signal: never })
  wake!()
  goOn.resolve()
  assert.deepEqual(ids(await fetching), ['a'])
  await driver.close()
  await publisher.close()
})

test('maintenance that fails shows in health until it works again', async () => {
  const name = freshSchema()
  let fail = true
  const driver = postgresDriver({
    schema: name,
    // It comes five seconds after something was written.
    clock: { ...systemClock, sleep: (ms, options) => systemClock.sleep(ms === 5_000 ? 5 : ms, options) },
    client: tampered(db.client, /^SELECT \S+\.maintain\(/, (send) =>
      fail ? Promise.reject(Object.assign(new Error('no room'), { code: '53100', severity: 'ERROR' })) : send(),
    ),
  })
  const asked = async (): Promise<unknown> => (await driver.ping({ signal: never })).details!['maintenance']
  await driver.admin.createTopic('orders', one)
  const publish = (): Promise<unknown> => driver.publish([outgoing('orders', 'a')], { signal: never })
  await publish()
  await waitUntil(async () => String(await asked()).includes('no room'))
  fail = false
  await waitUntil(async () => (await publish(), (await asked()) === undefined))
  await driver.close()
})

test('closing the driver ends what waits', async () => {
  const name = freshSchema()
  const driver = postgresDriver({ client: db.client, schema: name })
  await driver.admin.createTopic('orders', one)
  const reader = await member(driver, 'orders', undefined)
  const waiting = assert.rejects(reader.consumption.fetch(new Map([[0, 1]]), { signal: never }), { code: 'ERR_MESSAGING_CLOSED' })
  await driver.close()
  await waiting
})
