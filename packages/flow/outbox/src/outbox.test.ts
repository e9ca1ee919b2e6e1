import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { PGlite } from '@electric-sql/pglite'
import { Pool, type PoolClient } from 'pg'
import { message, schemas, textOf } from './harness.test.ts'
import { createInbox, createOutbox, memoryStore, type OutboxMessage, type SqlClient } from './index.ts'

test('clients fit, and what is no transaction is refused', async () => {
  const outbox = createOutbox({ store: memoryStore().outbox })
  const typesOf = (pool: Pool, lite: PGlite, client: PoolClient): void => {
    const clients: SqlClient[] = [pool, lite, client]
    void clients
    void outbox.add(client, message('k', 'x'))
    void lite.transaction((tx) => outbox.add(tx, message('k', 'x')))
    // @ts-expect-error each statement of a pool is a transaction of its own
    void outbox.add(pool, message('k', 'x'))
    // @ts-expect-error so is each of a bare PGlite
    void outbox.add(lite, message('k', 'x'))
  }
  void typesOf
  const pool = new Pool()
  await assert.rejects(outbox.add(pool as never, message('k', 'x')), { name: 'TypeError', message: /on which you ran BEGIN/ })
  assert.throws(() => outbox.publisher(pool as never), TypeError)
})

test('rows are added by the thousand, or as many as reach 8 MiB', async () => {
  const counts: number[] = []
  const tx: SqlClient = {
    query: async (text) => {
      counts.push(text.split('), (').length)
      return { rows: [] }
    },
  }
  const sized = (bytes: number, more?: Partial<OutboxMessage>): OutboxMessage => ({ topic: 't', value: new Uint8Array(bytes), ...more })
  const outbox = createOutbox()
  const added = async (rows: OutboxMessage[]): Promise<number[]> => {
    counts.length = 0
    await outbox.add(tx, rows)
    return [...counts]
  }
  const many = (n: number, bytes: number, more?: Partial<OutboxMessage>): OutboxMessage[] => Array.from({ length: n }, () => sized(bytes, more))
  assert.deepEqual(await added(many(2_001, 10)), [1_000, 1_000, 1])
  assert.deepEqual(await added(many(20, 1_000_000)), [9, 9, 2], 'the row that reaches it is the last')
  assert.deepEqual(await added([...many(1_002, 10), ...many(9, 1_000_000, { deliverAt: 0 })]), [1_000, 2, 9])
})

describe('a message that no broker would take fails at add, by name', () => {
  const memory = memoryStore()
  const outbox = createOutbox({ store: memory.outbox, maxMessageBytes: 100 })
  const value = new Uint8Array(10)
  const bad: [Record<string, unknown>, typeof RangeError | typeof TypeError, RegExp][] = [
    [{ topic: '' }, RangeError, /topic must match .* got ""/],
    [{ topic: 'a b' }, RangeError, /got "a b"/],
    [{ value: 'text' }, TypeError, /must be a Uint8Array, got string/],
    [{ value: new Uint8Array(101) }, RangeError, /has 101 bytes with its key and headers, at most 100/],
    [{ value: new Uint8Array(90), headers: { abc: 'ü'.repeat(4) } }, RangeError, /has 101 bytes/],
    [{ value: new Uint8Array(100), key: 'k' }, RangeError, /has 101 bytes/],
    [{ topic: 'orders.retry' }, RangeError, /not end in \.retry, .* reservedSuffixes\. Got "orders\.retry"/],
    [{ topic: 'orders.mails.dlq' }, RangeError, /not end in \.dlq/],
    [{ timestamp: -8.64e15 }, RangeError, /timestamp must not lie before PostgreSQL's first day/],
    [{ deliverAt: -210_866_803_200_001 }, RangeError, /deliverAt must not/],
    [{ headers: { 'a b': 'x' } }, RangeError, /"a b"/],
    [{ headers: { Foo: '1', foo: '2' } }, RangeError, /^Header "foo" is given twice$/],
    [{ headers: { 'CB-x': 'x' } }, RangeError, /not begin with cb-/],
    [{ headers: { 'cb-x': 'x' } }, RangeError, /not begin with cb-/],
    [{ headers: { a: 1 } }, TypeError, /Header a must be a string, got number/],
    ...['a\nb', 'a\rb', 'a\0b', ' a', 'a ', '\uD800'].map((text): [Record<string, unknown>, typeof RangeError, RegExp] => [
      { headers: { a: text } },
      RangeError,
      /Header a/,
    ]),
    [{ key: 'a\0b' }, RangeError, /key must be/],
    [{ key: '' }, RangeError, /key must be/],
    [{ id: 7 }, TypeError, /id must be a string, got 7/],
    [{ deliverAt: Number.NaN }, RangeError, /deliverAt must be ms/],
    [{ timestamp: Infinity }, RangeError, /timestamp must be ms/],
    [{ dedupeId: '' }, RangeError, /dedupeId/],
  ]
  for (const [fault, kind, text] of bad)
    test(JSON.stringify(fault).slice(0, 60), () =>
      memory.transaction(async (tx) => {
        await assert.rejects(outbox.add(tx, { topic: 't', value, ...fault }), (error: Error) => error instanceof kind && text.test(error.message))
      }),
    )

  test('at the limit it is taken', async () => {
    await memory.transaction((tx) => outbox.add(tx, { topic: 't', value: new Uint8Array(100) }))
    assert.equal((await outbox.counts(memory)).pending, 1)
  })

  test('a message that was received is taken, also without what the broker says of its id, and so are parts that are undefined', async () => {
    const received = { id: 'a', topic: 't', key: undefined, value, headers: {}, timestamp: 1, body: value, attempt: 1, tombstone: false, rawKey: undefined }
    const whole = { ...received, idStable: true }
    const { pending } = await outbox.counts(memory)
    await memory.transaction((tx) => outbox.add(tx, [received, whole] as unknown as OutboxMessage[]))
    await memory.transaction((tx) => outbox.add(tx, { topic: 't', value, tombstone: undefined } as OutboxMessage))
    assert.equal((await outbox.counts(memory)).pending, pending + 3)
  })

  test('header names come out in lower case, whatever they are', async () => {
    const added: (string | undefined)[] = []
    const rows = { ...memory.outbox.rows, add: async (_: unknown, given: readonly { headers: string | undefined }[]) => void added.push(given[0]!.headers) }
    const spied = createOutbox({ store: { ...memory.outbox, rows } })
    const headers = JSON.parse('{"Foo":"1","bar":"Baz","__PROTO__":"x"}') as Record<string, string>
    await memory.transaction((tx) => spied.add(tx, { topic: 't', value, headers }))
    assert.deepEqual(added, ['{"foo":"1","bar":"Baz","__proto__":"x"}'])
  })

  test('a tombstone is refused, received ones too: it would arrive as an empty message', async () => {
    const tombstone = { topic: 't', value: new Uint8Array(0), tombstone: true }
    for (const more of [{}, { idStable: true }, { letterId: 'l' }, { body: value, attempt: 1 }])
      await memory.transaction((tx) =>
        assert.rejects(outbox.add(tx, { ...tombstone, ...more }), { name: 'TypeError', message: /^The outbox has no tombstones/ }),
      )
  })

  test('which topics are reserved is said by who knows the broker', async () => {
    const other = createOutbox({ store: memory.outbox, reservedSuffixes: ['.dead'] })
    await memory.transaction(async (tx) => {
      await other.add(tx, { topic: 'orders.retry', value })
      await assert.rejects(other.add(tx, { topic: 'orders.dead', value }), /not end in \.dead/)
    })
  })
})

test('names and sizes that cannot be are refused', () => {
  assert.throws(() => createOutbox({ schema: 'a"; DROP TABLE x; --' }), { name: 'RangeError', message: /schema must match/ })
  assert.throws(() => createOutbox({ table: 'x'.repeat(41) }), RangeError)
  for (const partitions of [0, 3, 1.5, 128]) assert.throws(() => createOutbox({ partitions }), { name: 'RangeError', message: new RegExp(`got ${partitions}`) })
})

describe('on PostgreSQL', () => {
  const { open, close } = schemas('pg18')
  after(close)

  test('a batch is one statement, keeps its order, and the options fill in key and delay', async () => {
    const { outbox, transaction, db, schema } = await open()
    const texts: string[] = []
    const ids = await transaction((tx) =>
      outbox.add(
        { query: (text, values) => (texts.push(text), tx.query(text, values)) },
        Array.from({ length: 1_000 }, (_, n) => message(undefined, String(n))),
        { key: 'all' },
      ),
    )
    assert.equal(texts.length, 1)
    const { rows } = await db.query(`SELECT message_id, key FROM ${schema}.outbox ORDER BY id`)
    assert.deepEqual(
      rows,
      ids.map((message_id) => ({ message_id, key: 'all' })),
    )
    await transaction((tx) => outbox.add(tx, message('k', 'x'), { deliverAt: Date.now() + 60_000 }))
    assert.equal((await outbox.counts(db)).delayed, 1)
  })

  test('whatever time add takes, the server takes', async () => {
    const { outbox, transaction } = await open()
    for (const time of [-210_866_803_200_000, 8.64e15])
      await transaction((tx) =>
        outbox.add(tx, [
          { ...message('k', 'x'), timestamp: time },
          { ...message('k', 'x'), deliverAt: time },
        ]),
      )
  })

  test('the transaction as a publisher', async () => {
    const { outbox, transaction, db } = await open()
    await transaction(async (tx) => {
      const publisher = outbox.publisher(tx)
      const { id } = await publisher.publish({ ...message('k', 'x'), id: 'mine' })
      assert.equal(id, 'mine')
      const results = await publisher.publishBatch([message('k', 'y'), message('k', 'z')])
      assert.deepEqual(
        results.map((result) => result.status),
        ['stored', 'stored'],
      )
      await publisher.close()
    })
    assert.equal((await outbox.counts(db)).pending, 3)
  })

  test('the tables can be made by many at once, and again', async () => {
    const { database } = await open()
    const outbox = createOutbox({ schema: 'race', table: 'ev' })
    await Promise.all(Array.from({ length: 8 }, () => database.client.query(outbox.schema())))
    await database.transaction((tx) => outbox.add(tx, message('k', 'x')))
    await database.client.query(outbox.schema())
    assert.equal((await outbox.counts(database.client)).pending, 1)
  })

  for (const lost of ['outbox', 'outbox_held', 'outbox_leases', 'outbox_relays'])
    test(`where ${lost} was lost, only that is made again, and all goes on`, async () => {
      const { schema, db, outbox, transaction } = await open()
      await transaction((tx) => outbox.add(tx, [message('k', '1'), { ...message('k', '2'), deliverAt: 0 }]))
      await db.query(`DROP TABLE ${schema}.${lost} CASCADE`)
      await assert.rejects(lost === 'outbox_leases' || lost === 'outbox_relays' ? outbox.store.leases.renew(db, 'r', 1_000) : outbox.counts(db), {
        code: 'ERR_OUTBOX_SCHEMA',
      })
      await db.query(outbox.schema())
      await transaction((tx) => outbox.add(tx, [message('k', '3'), { ...message('k', '4'), deliverAt: 0 }]))
      const { leases, queue } = outbox.store
      const held = await leases.claim(db, 'r', 60_000, (await leases.renew(db, 'r', 60_000)).free)
      await queue.restore(db, held, { skip: false, known: undefined })
      const from = held.map(({ partition }) => ({ partition, low: 0 }))
      const rows = await queue.next(db, { done: [], from, except: { lanes: [], topics: [] }, limit: 100, limitBytes: 1e9 })
      assert.deepEqual(rows.map(textOf), { outbox: ['3', '2', '4'], outbox_held: ['1', '3', '4'] }[lost] ?? ['1', '3', '2', '4'])
    })

  test('tables of another size or of somebody else are refused', async () => {
    const { schema, db } = await open()
    await assert.rejects(db.query(createOutbox({ schema, partitions: 8 }).schema()), /has 16 partitions, not 8/)
    await db.query(`CREATE TABLE ${schema}.theirs (id int)`)
    await assert.rejects(db.query(createOutbox({ schema, table: 'theirs' }).schema()), /not a core-backend outbox of version 2/)
  })

  test('an inbox has a version of its own, and its refusal says what is there', async () => {
    const { schema, db } = await open()
    await db.query(createInbox({ schema, table: 'done' }).schema())
    const { rows } = await db.query(`SELECT obj_description('${schema}.done'::regclass) AS comment`)
    assert.deepEqual(rows, [{ comment: 'core-backend inbox 1' }])
    await db.query(`COMMENT ON TABLE ${schema}.done IS 'core-backend inbox 7'`)
    await assert.rejects(db.query(createInbox({ schema, table: 'done' }).schema()), {
      message: `table ${schema}.done is not a core-backend inbox of version 1: its comment says core-backend inbox 7`,
    })
  })

  test('rows copied into another database, as a restore does, are published in order, and new ones come after them', async () => {
    const [from, to] = [await open(), await open()]
    await from.transaction((tx) =>
      from.outbox.add(
        tx,
        Array.from({ length: 50 }, (_, n) => message('k', String(n))),
      ),
    )
    const columns = 'id, message_id, topic, key, value, headers, timestamp, dedupe_id, created_at'
    await to.db.query(`INSERT INTO ${to.schema}.outbox (${columns}) SELECT ${columns} FROM ${from.schema}.outbox ORDER BY id DESC`)
    await to.db.query(to.outbox.schema()) // The copy left the sequence behind; ids must not come twice.
    await to.transaction((tx) => to.outbox.add(tx, message('k', 'new')))
    const { leases, queue } = to.outbox.store
    const held = await leases.claim(to.db, 'r', 60_000, (await leases.renew(to.db, 'r', 60_000)).free)
    const rows = await queue.next(to.db, {
      done: [],
      from: held.map(({ partition }) => ({ partition, low: 0 })),
      except: { lanes: [], topics: [] },
      limit: 100,
      limitBytes: 1e9,
    })
    assert.deepEqual(rows.map(textOf), [...Array.from({ length: 50 }, (_, n) => String(n)), 'new'])
  })
})
