import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { systemClock } from '#internal/clock'
import { openDatabase } from '@core-backend/testkit/postgres'
import { ids, member, never, outgoing, series } from '../postgres.fixture.ts'
import { type PostgresDriver, postgresDriver } from '../postgres.ts'
import { createConnection } from './connection.ts'
import { createMaintenance, type Maintenance } from './maintenance.ts'
import { createSetup } from './schema.ts'
import { statements } from './statements.ts'

const db = await openDatabase('pg18', { max: 12 })
after(() => db.close())

const one = { partitions: 1, keep: false, maxAgeMs: undefined }
const sql = async <Row>(text: string, values?: unknown[]): Promise<Row[]> => (await db.client.query(text, values)).rows as Row[]

interface Stage {
  readonly name: string
  readonly driver: PostgresDriver
  readonly removed: [topic: string, count: number][]
  /** Turns of maintenance, one after the other, as if an hour lay between them; until there is nothing more to do. */
  turn(): Promise<void>
  /** How many rows stand in each segment, and in `messages_kept`. */
  rows(): Promise<Record<string, number>>
}

let stages = 0
/** Every segment that has anything is large enough to be closed. */
async function stage(): Promise<Stage> {
  const name = `r${++stages}`
  const driver = postgresDriver({ client: db.client, schema: name })
  await driver.admin.topics()
  const removed: [string, number][] = []
  const maintenance: Maintenance = createMaintenance({
    connection: createConnection(db.client, { clock: systemClock, statementMs: 10_000, setup: createSetup(name, 'expect') }),
    sql: statements(name),
    clock: systemClock,
    segmentBytes: 1,
    segmentAgeMs: 3_600_000,
    onRemovedUnread: (topic, count) => removed.push([topic, count]),
  })
  return {
    name,
    driver,
    removed,
    turn: async () => {
      do await sql(`UPDATE ${name}.rotation SET maintained_at = maintained_at - interval '1 hour', since = since - interval '1 hour'`)
      while (await maintenance.turn())
    },
    rows: async () => {
      const found = await sql<{ table: string; n: number }>(
        `SELECT tableoid::regclass::text AS table, count(*)::int AS n FROM ${name}.messages GROUP BY 1 ORDER BY 1`,
      )
      return Object.fromEntries(found.map(({ table, n }) => [table.split('.')[1]!, n]))
    },
  }
}

test('what every group has read is freed with its segment, and offsets go on', async () => {
  const { name, driver, turn, rows } = await stage()
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'a', 'earliest')
  await driver.admin.createGroup('orders', 'b', 'earliest')
  await driver.publish(series('orders', 10), { signal: never })
  const [a, b] = [await member(driver, 'orders', 'a'), await member(driver, 'orders', 'b')]
  await a.settle(await a.take(10))
  await turn()
  assert.deepEqual(await rows(), { messages_0: 10 }, 'b has not read them')
  await driver.publish([outgoing('orders', 'next')], { signal: never })
  assert.deepEqual(await rows(), { messages_0: 10, messages_1: 1 })
  await b.settle(await b.take(10))
  await turn()
  assert.deepEqual(await rows(), { messages_1: 1 })
  assert.deepEqual(await sql(`SELECT pg_relation_size('${name}.messages_0')::int AS bytes`), [{ bytes: 0 }])
  assert.deepEqual(
    [await a.take(1), await b.take(1)].map((taken) => taken.map(({ position, message }) => [position, message.id])),
    [[['10', 'next']], [['10', 'next']]],
  )
  await a.leave()
  await b.leave()
  await driver.close()
})

test('the segment before the current one is left alone for a while, for listeners without a group', async () => {
  const { name, driver, turn, rows } = await stage()
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'latest')
  await driver.publish(series('orders', 3), { signal: never })
  await sql(`UPDATE ${name}.cursors SET watermark = 3`)
  await sql(`UPDATE ${name}.rotation SET current = 1`)
  const connection = createConnection(db.client, { clock: systemClock, statementMs: 10_000, setup: createSetup(name, 'expect') })
  await connection.run(statements(name).maintain, ['0', '1', '3600000', '60000'])
  assert.deepEqual(await rows(), { messages_0: 3 })
  await turn()
  assert.deepEqual(await rows(), {})
  await driver.close()
})

test('a group that sleeps holds its own messages and nobody else’s: they move aside once, and come in order when it wakes', async () => {
  const { name, driver, turn, rows } = await stage()
  await driver.admin.createTopic('busy', one)
  await driver.admin.createTopic('slow', one)
  await driver.admin.createGroup('busy', 'g', 'earliest')
  await driver.admin.createGroup('slow', 'sleeper', 'earliest')
  const busy = await member(driver, 'busy', 'g')
  for (let round = 0; round < 12; round++) {
    await driver.publish([...series('busy', 50, `${round}-`), outgoing('slow', `slow-${round}`)], { signal: never })
    await busy.settle(await busy.take(50))
    await turn()
  }
  const held = await rows()
  assert.equal(Object.values(held).reduce((sum, n) => sum + n, 0) < 4 * 51 + 12, true, JSON.stringify(held))
  assert.ok(held['messages_kept']! >= 6, JSON.stringify(held))
  assert.deepEqual(
    await sql(
      `SELECT count(*)::int AS n FROM ${name}.messages m JOIN ${name}.partitions p ON p.id = m.pid JOIN ${name}.topics t ON t.id = p.topic_id WHERE t.name = 'slow'`,
    ),
    [{ n: 12 }],
  )
  const sleeper = await member(driver, 'slow', 'sleeper')
  const woken = await sleeper.take(12)
  assert.deepEqual(
    ids(woken),
    Array.from({ length: 12 }, (_, round) => `slow-${round}`),
  )
  await sleeper.settle(woken)
  for (let i = 0; i < 3; i++) await turn()
  assert.equal((await rows())['messages_kept'], undefined)
  await sleeper.leave()
  await busy.leave()
  await driver.close()
})

test('a reader sees every message once while it moves from one place to the other', async () => {
  const { driver, turn, rows } = await stage()
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  let reading = true
  const n = 200
  const published = driver.publish(series('orders', n), { signal: never })
  await published
  const reader = (async () => {
    let looks = 0
    while (reading) {
      const seen = (await driver.log.read('orders', 0, undefined, 2 * n, Infinity)).slice(0, n)
      assert.deepEqual(
        seen.map(({ message }) => message.id),
        Array.from({ length: n }, (_, i) => String(i)),
      )
      looks++
    }
    return looks
  })()
  for (let i = 0; i < 6; i++) {
    await driver.publish([outgoing('orders', `more-${i}`)], { signal: never })
    await turn()
  }
  reading = false
  assert.ok((await reader) > 0)
  assert.ok((await rows())['messages_kept']! >= n)
  await driver.close()
})

test('a publisher that is slow, or does not know the current segment, loses nothing', async () => {
  const { name, driver, turn } = await stage()
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  await driver.publish([outgoing('orders', 'read')], { signal: never })
  const reader = await member(driver, 'orders', 'g')
  await reader.settle(await reader.take(1))
  const slow = await db.pool!.connect()
  const inTransaction = postgresDriver({ client: slow, schema: name, setup: 'expect' })
  await inTransaction.admin.topics()
  await slow.query('BEGIN')
  await inTransaction.publish([outgoing('orders', 'slow')], { signal: never })
  for (let i = 0; i < 3; i++) await turn()
  assert.deepEqual(await sql(`SELECT id FROM ${name}.messages`), [{ id: 'read' }], 'its lock keeps the segment')
  await slow.query('COMMIT')
  slow.release()
  // In a segment that is not current any more, nor the one before.
  await turn()
  assert.deepEqual(ids(await reader.take(1)), ['slow'])
  await reader.leave()
  await driver.close()
})

test('a topic without groups keeps its messages for the first one that comes; kept topics keep theirs until they are discarded', async () => {
  const { driver, turn, rows } = await stage()
  await driver.admin.createTopic('orders', one)
  await driver.admin.createTopic('letters', { partitions: 1, keep: true, maxAgeMs: undefined })
  await driver.publish([...series('orders', 5), ...series('letters', 3)], { signal: never })
  for (let i = 0; i < 6; i++) {
    await driver.publish([outgoing('orders', `more-${i}`)], { signal: never })
    await turn()
  }
  await driver.admin.createGroup('orders', 'g', 'earliest')
  const reader = await member(driver, 'orders', 'g')
  const deliveries = await reader.take(11)
  await reader.settle(deliveries)
  for (let i = 0; i < 6; i++) await turn()
  assert.deepEqual(await rows(), { messages_kept: 3 })
  const letters = await driver.log.read('letters', 0, undefined, 10, Infinity)
  await driver.log.mark('letters', [
    { letterId: 'x', position: letters[1]!.position, mark: 'discarded' },
    { letterId: 'y', position: letters[0]!.position, mark: 'replayed' },
  ])
  assert.deepEqual(
    (await driver.log.read('letters', 0, undefined, 10, Infinity)).map(({ message }) => message.id),
    ['0', '2'],
  )
  assert.deepEqual([...(await driver.log.marks('letters'))], [['y', { mark: 'replayed', position: letters[0]!.position }]])
  await driver.admin.deleteTopic('letters')
  assert.deepEqual(await rows(), {})
  await reader.leave()
  await driver.close()
})

test('a listener without a group that reads too slowly is told what it missed, and goes on', async () => {
  const { driver, turn } = await stage()
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  const listener = await member(driver, 'orders', undefined)
  const reader = await member(driver, 'orders', 'g')
  await driver.publish(series('orders', 10), { signal: never })
  await reader.settle(await reader.take(10))
  await turn()
  await driver.publish([outgoing('orders', 'next')], { signal: never })
  await turn()
  await assert.rejects(listener.take(1), { code: 'ERR_MESSAGING_MISSED', message: /^10 messages of partition 0 of orders/ })
  assert.deepEqual(ids(await listener.take(1)), ['next'])
  await reader.leave()
  await listener.leave()
  await driver.close()
})

test('what was removed between messages that are left is told too', async () => {
  const { name, driver, turn } = await stage()
  await driver.admin.createTopic('orders', one)
  await driver.admin.createGroup('orders', 'g', 'earliest')
  const listener = await member(driver, 'orders', undefined)
  const reader = await member(driver, 'orders', 'g')
  // Three segments; somebody reads the first while the second goes.
  for (const prefix of ['first ', 'second ', 'third ']) {
    await driver.publish(series('orders', 10, prefix), { signal: never })
    if (prefix !== 'third ') await turn()
  }
  const lock = await db.pool!.connect()
  await lock.query('BEGIN')
  await lock.query(`LOCK TABLE ${name}.messages_0 IN ACCESS SHARE MODE`)
  await reader.settle(await reader.take(30))
  await turn()
  const { rows } = await lock.query<{ n: number }>(`SELECT count(*)::int AS n FROM ${name}.messages`)
  assert.equal(rows[0]!.n, 20)
  await lock.query('COMMIT')
  lock.release()
  let told = ''
  const heard: string[] = []
  while (heard.length < 20)
    heard.push(
      ...(await listener.consumption.fetch(new Map([[0, 100]]), { signal: never }).then(ids, (error: Error) => {
        told = error.message
        return []
      })),
    )
  assert.match(told, /^10 messages of partition 0 of orders/)
  await reader.leave()
  await listener.leave()
  await driver.close()
})

test('what was missed in two partitions at once is told of both', async () => {
  const { driver, turn } = await stage()
  await driver.admin.createTopic('orders', { ...one, partitions: 2 })
  await driver.admin.createGroup('orders', 'g', 'earliest')
  const listener = await member(driver, 'orders', undefined)
  const reader = await member(driver, 'orders', 'g')
  const keyed = (n: number, prefix: string) => series('orders', n, prefix).map((message, i) => ({ ...message, key: `key-${i % 20}` }))
  await driver.publish(keyed(40, 'gone '), { signal: never })
  await reader.settle(await reader.take(40))
  await turn()
  await driver.publish(keyed(20, 'next '), { signal: never })
  await turn()
  let missed = 0
  const seen: string[] = []
  const wants = new Map([
    [0, 100],
    [1, 100],
  ])
  while (seen.length < 20)
    seen.push(
      ...(await listener.consumption.fetch(wants, { signal: never }).then(ids, (error: Error) => {
        missed += Number.parseInt(error.message)
        return []
      })),
    )
  assert.equal(missed, 40)
  await reader.leave()
  await listener.leave()
  await driver.close()
})

test('what is older than maxAgeMs goes, read or not, and what was unread is counted', async () => {
  const { name, driver, removed, turn } = await stage()
  await driver.admin.createTopic('orders', { partitions: 1, keep: false, maxAgeMs: 60_000 })
  await driver.admin.createGroup('orders', 'g', 'earliest')
  await driver.publish(series('orders', 10), { signal: never })
  const reader = await member(driver, 'orders', 'g')
  const handed = await reader.take(4)
  await reader.consumption.settle([{ partition: 0, epoch: handed[0]!.epoch, watermark: handed[0], above: [handed[2]!], settled: [] }])
  await turn()
  assert.deepEqual(removed, [], 'nothing is old yet')
  await sql(`UPDATE ${name}.ages SET at = at - interval '61 seconds'`)
  await driver.publish([outgoing('orders', 'new')], { signal: never })
  await turn()
  assert.deepEqual(removed, [['orders', 8]])
  assert.deepEqual(await driver.admin.groups('orders'), [{ group: 'g', members: 1, lag: 1, oldestAt: 1_700_000_000_000, approximate: false }])
  assert.deepEqual(
    (await driver.log.read('orders', 0, undefined, 10, Infinity)).map(({ message }) => message.id),
    ['new'],
  )
  await driver.admin.createGroup('orders', 'late', 'earliest')
  const late = await member(driver, 'orders', 'late')
  assert.deepEqual(ids(await late.take(1)), ['new'])
  await late.leave()
  await reader.leave()
  await driver.close()
})

test('what waits is as old as the first message that is still there and not settled', async () => {
  const { name, driver } = await stage()
  await driver.admin.createTopic('orders', { partitions: 1, keep: false, maxAgeMs: undefined })
  const messages = series('orders', 4).map((message, n) => ({ ...message, timestamp: 1_000 + n }))
  await driver.publish(messages, { signal: never })
  await driver.admin.createGroup('orders', 'g', 'earliest')
  const oldest = async (): Promise<number | undefined> => (await driver.admin.groups('orders'))[0]!.oldestAt
  assert.equal(await oldest(), 1_000)
  const reader = await member(driver, 'orders', 'g')
  const handed = await reader.take(4)
  await reader.consumption.settle([{ partition: 0, epoch: handed[0]!.epoch, watermark: undefined, above: [handed[1]!], settled: [] }])
  await sql(`DELETE FROM ${name}.messages WHERE "offset" = 0`)
  assert.equal(await oldest(), 1_002)
  await reader.leave()
  await driver.close()
})

test('a log does not show what is too old and not freed yet', async () => {
  const { name, driver, turn, rows } = await stage()
  await driver.admin.createTopic('orders', { partitions: 1, keep: false, maxAgeMs: 60_000 })
  await driver.publish(series('orders', 3), { signal: never })
  await turn()
  await sql(`UPDATE ${name}.ages SET at = at - interval '61 seconds'`)
  await driver.publish([outgoing('orders', 'new')], { signal: never })
  // Somebody reads: what is too old cannot be freed now.
  const reading = await db.pool!.connect()
  await reading.query('BEGIN')
  await reading.query(`LOCK TABLE ${name}.messages_0 IN ACCESS SHARE MODE`)
  await turn()
  assert.equal(
    Object.values(await rows()).reduce((sum, n) => sum + n, 0),
    4,
  )
  const log = await driver.log.read('orders', 0, undefined, 10, Infinity)
  await reading.query('COMMIT')
  reading.release()
  assert.deepEqual(
    log.map(({ message }) => message.id),
    ['new'],
  )
  await driver.close()
})

test('maintenance is one process’s at a time, and one turn in a while for all', async () => {
  const { name, driver } = await stage()
  await sql(`UPDATE ${name}.rotation SET maintained_at = '-infinity'`)
  const connection = createConnection(db.client, { clock: systemClock, statementMs: 10_000, setup: createSetup(name, 'expect') })
  const turns = await Promise.all(
    Array.from({ length: 5 }, () => connection.run<{ done: string | null }>(statements(name).maintain, ['3600000', '1', '1', '1'])),
  )
  assert.equal(turns.filter(([row]) => row!.done !== null).length, 1)
  await driver.close()
})

test('copied row by row into another database, everything goes on where it stood', async () => {
  const { name, driver } = await stage()
  await driver.admin.createTopic('orders', { partitions: 4, keep: false, maxAgeMs: undefined })
  await driver.admin.createGroup('orders', 'g', 'earliest')
  await driver.publish(series('orders', 20), { signal: never })
  const before = await member(driver, 'orders', 'g')
  const half = await before.take(10)
  await before.settle(half)
  await before.leave()

  const other = await openDatabase('pg18', { max: 4 })
  try {
    const copy = postgresDriver({ client: other.client, schema: name })
    await copy.admin.topics()
    for (const table of 'topics partitions messages groups cursors handed producers rotation dedupe delayed marks'.split(' ')) {
      const [row] = await sql<{ rows: string | null }>(`SELECT json_agg(t)::text AS rows FROM ${name}.${table} t`)
      await other.client.query(`DELETE FROM ${name}.${table}`)
      await other.client.query(`INSERT INTO ${name}.${table} OVERRIDING SYSTEM VALUE SELECT * FROM json_populate_recordset(NULL::${name}.${table}, $1::json)`, [
        row!.rows ?? '[]',
      ])
    }
    const after = await member(copy, 'orders', 'g')
    await copy.publish([outgoing('orders', 'new')], { signal: never })
    const rest = await after.take(21 - half.length)
    assert.deepEqual([...ids(half), ...ids(rest)].sort(), [...Array.from({ length: 20 }, (_, i) => String(i)), 'new'].sort())
    await after.leave()
    await copy.close()
  } finally {
    await other.close()
  }
  await driver.close()
})
