import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { memoryHarness, message, schemas } from './harness.test.ts'
import { createInbox, memoryStore, poolTransaction, type Transaction } from './index.ts'

test('a message without a stable id is refused unless the inbox is told what identifies it', async () => {
  const memory = memoryStore()
  const unstable = { id: 'random', idStable: false, order: 'o-1' }
  await memory.transaction(async (tx) => {
    const strict = createInbox({ store: memory.inbox })
    await assert.rejects(
      strict.once(tx, unstable, 'h', async () => assert.fail()),
      { code: 'ERR_INBOX_UNSTABLE_ID', retryable: false, message: /random/ },
    )
    const told = createInbox<typeof unstable>({ store: memory.inbox, messageId: (given) => given.order })
    assert.deepEqual(await told.once(tx, unstable, 'h', async () => 1), { duplicate: false, value: 1 })
    assert.deepEqual(await told.once(tx, { ...unstable, id: 'other' }, 'h', async () => 1), { duplicate: true })
  })
})

test('old messages run when they are allowed to', async () => {
  const memory = memoryStore()
  const inbox = createInbox({ store: memory.inbox, allowOld: true })
  await memory.transaction(async (tx) => {
    assert.deepEqual(await inbox.once(tx, { id: 'm', timestamp: 0 }, 'h', async () => 1), { duplicate: false, value: 1 })
  })
  assert.throws(() => createInbox({ retentionMs: 0 }), RangeError)
})

test('the runner gives each run a transaction of its own, and undoes the one that fails', async () => {
  const { inbox, outbox, transaction, db } = memoryHarness()
  const runner = inbox.runner(transaction)
  const delivered = { id: 'm', timestamp: Date.now(), idStable: true }
  const handle = async (tx: Transaction, fail: boolean): Promise<void> => {
    await outbox.add(tx, message('k', 'effect'))
    if (fail) throw new Error('handler')
  }
  await assert.rejects(
    runner.run(delivered, 'h', (tx) => handle(tx, true)),
    /handler/,
  )
  assert.equal((await outbox.counts(db)).pending, 0)
  assert.equal((await runner.run(delivered, 'h', (tx) => handle(tx, false))).duplicate, false)
  assert.equal((await runner.run(delivered, 'h', (tx) => handle(tx, false))).duplicate, true)
  assert.equal((await outbox.counts(db)).pending, 1)
})

type Handler<C> = (message: { id: string }, ctx: C) => Promise<void>

test('the middleware gives handlers ctx.tx, keeps the rest of the context, and hands no duplicate on', async () => {
  const { inbox, outbox, transaction, db } = memoryHarness()
  const seen: number[] = []
  const handler: Handler<{ attempt: number }> = inbox.middleware(transaction, { handler: 'h' })(async (_, ctx) => {
    seen.push(ctx.attempt)
    await outbox.add(ctx.tx, message('k', 'effect'))
  })
  for (const attempt of [1, 2, 3]) await handler({ id: 'm' }, { attempt })
  assert.deepEqual(seen, [1])
  assert.equal((await outbox.counts(db)).pending, 1)
})

test('behind the middleware a run that asks for another, or for a dead letter, is undone; one that asks for nothing or to be skipped is not', async () => {
  const { inbox, outbox, transaction, db } = memoryHarness()
  const asks: (string | undefined)[] = ['retry', 'deadLetter', 'skip', 'retry']
  const seen: unknown[] = []
  const handler: Handler<{ asked?: string | undefined }> = inbox.middleware(transaction, { handler: 'h' })(async (_, ctx) => {
    await outbox.add(ctx.tx, message('k', 'effect'))
    ctx.asked = asks[seen.length]
    seen.push(ctx.asked)
  })
  for (let delivery = 1; delivery <= 5; delivery++) await handler({ id: 'm' }, {})
  assert.deepEqual(seen, ['retry', 'deadLetter', 'skip'])
  assert.equal((await outbox.counts(db)).pending, 1)
  const failing = inbox.middleware(transaction, { handler: 'h' })(() => Promise.reject(new Error('by itself')))
  await assert.rejects(failing({ id: 'n' }, { asked: 'retry' }), /by itself/)
})

test('a transaction that does not give the promise back, or never calls the function, is told: the message has not been handled', async () => {
  const { inbox, transaction } = memoryHarness()
  const untold = /must call fn, and give its promise back/
  const running: Promise<unknown>[] = []
  const forgetful = (async (fn: Parameters<typeof transaction>[0]) => void running.push(transaction(fn))) as typeof transaction
  await assert.rejects(
    inbox.runner(forgetful).run({ id: 'm' }, 'h', () => new Promise(setImmediate)),
    untold,
  )
  await assert.rejects(
    inbox.runner((async () => undefined) as never).run({ id: 'm' }, 'h', async () => undefined),
    untold,
  )
  // What an adapter gives back is its own business.
  const mute = (async (fn: Parameters<typeof transaction>[0]) => void (await transaction(fn))) as typeof transaction
  assert.deepEqual(await inbox.runner(mute).run({ id: 'n' }, 'h', async () => 5), { duplicate: false, value: 5 })
  await Promise.all(running)
})

test('messages with an empty id would all be one, and are refused', async () => {
  const { inbox, transaction } = memoryHarness()
  for (const given of ['', { id: '' }])
    await assert.rejects(
      transaction((tx) => inbox.once(tx, given, 'h', async () => undefined)),
      { name: 'RangeError', message: /must not be empty/ },
    )
})

test('what PostgreSQL does not store as it is, in an id or a name, is refused before anything is sent', async () => {
  const { inbox, transaction } = memoryHarness()
  for (const bad of ['a\0b', 'a\uD800']) {
    const got = `must be without NUL and lone surrogates, got ${JSON.stringify(bad)}`
    for (const given of [bad, { id: bad }])
      await assert.rejects(
        transaction((tx) => inbox.once(tx, given, 'h', async () => undefined)),
        { name: 'RangeError', message: `The message's id ${got}` },
      )
    await assert.rejects(
      transaction((tx) => inbox.once(tx, 'm', bad, async () => undefined)),
      { name: 'RangeError', message: `handler ${got}` },
    )
    await assert.rejects(
      inbox.runner(transaction).runTogether({ id: 'm' }, ['h', bad], async () => undefined),
      { name: 'RangeError', message: `handler ${got}` },
    )
  }
})

describe('on PostgreSQL', () => {
  const { open, close } = schemas('pg18')
  after(close)

  test('a message from before the first day of PostgreSQL is old, and nothing worse', async () => {
    const { inbox, transaction } = await open()
    const ancient = { id: 'm', timestamp: -8.64e15 }
    await assert.rejects(
      transaction((tx) => inbox.once(tx, ancient, 'h', async () => undefined)),
      { code: 'ERR_INBOX_TOO_OLD' },
    )
  })

  test('outside of a transaction the server itself refuses', async () => {
    const { inbox, database } = await open()
    const client = await database.pool!.connect()
    try {
      await assert.rejects(
        inbox.once(client, 'm', 'h', async () => assert.fail()),
        { code: '25P01' },
      )
    } finally {
      client.release()
    }
    await assert.rejects(
      inbox.once(database.pool as never, 'm', 'h', async () => assert.fail()),
      TypeError,
    )
  })

  test('a handler that hides a failed statement fails all the same, also when the adapter does not look at what COMMIT answered', async () => {
    const { inbox, outbox, database, db } = await open()
    const careless = async <T>(fn: (tx: Transaction) => Promise<T>): Promise<T> => {
      const client = await database.pool!.connect()
      try {
        await client.query('BEGIN')
        return await fn(client)
      } finally {
        await client.query('COMMIT')
        client.release()
      }
    }
    const hiding = async (tx: Transaction): Promise<void> => {
      await outbox.add(tx, message('k', 'effect'))
      await tx.query('SELECT 1 / 0').catch(() => undefined)
    }
    const { run, runTogether } = inbox.runner(careless)
    const aborted = { code: '25P02' }
    await assert.rejects(run({ id: 'm' }, 'h', hiding), aborted)
    await assert.rejects(runTogether({ id: 'm' }, ['h'], hiding), aborted)
    await assert.rejects(inbox.middleware(careless, { handler: 'h' })((_, ctx) => hiding(ctx.tx))({ id: 'm' }, {}), aborted)
    await database.transaction(async (tx) => {
      await assert.rejects(
        inbox.once(tx, 'm', 'h', () => hiding(tx)),
        aborted,
      )
      await outbox.add(tx, message('k', 'the transaction can go on'))
    })
    assert.equal((await outbox.counts(db)).pending, 1)
    assert.equal((await run({ id: 'm' }, 'h', async () => 0)).duplicate, false)
  })

  test('poolTransaction: a COMMIT that was a ROLLBACK is an error, for which the runner asks nobody; what comes after the end is refused', async () => {
    const { inbox, outbox, database, db, schema } = await open()
    const texts: string[] = []
    const pool = {
      connect: async () => {
        const client = await database.pool!.connect()
        return {
          query: (text: string, values?: unknown[]) => (texts.push(text), client.query(text, values)),
          release: (broken?: Error) => client.release(broken),
        }
      },
    }
    const { run } = inbox.runner(poolTransaction(pool))
    const hidden = run({ id: 'm' }, 'h', async (tx) => {
      await outbox.add(tx, message('k', 'effect'))
      await tx.query('SELECT 1 / 0').catch(() => undefined)
    })
    await assert.rejects(hidden, /COMMIT was a ROLLBACK/)
    assert.deepEqual(texts.slice(-3), ['SELECT 1 / 0', 'COMMIT', 'ROLLBACK'])
    await db.query(`CREATE TABLE ${schema}.effect (n integer)`)
    for (const failing of [true, false]) {
      let late: Promise<unknown> | undefined
      const running = run({ id: 'm' }, 'h', async (tx) => {
        late = new Promise(setImmediate)
          .then(() => new Promise((resolve) => setTimeout(resolve, 50)))
          .then(() => tx.query(`INSERT INTO ${schema}.effect VALUES (1)`))
        late.catch(() => undefined)
        if (failing) throw new Error('handler')
      })
      await (failing ? assert.rejects(running, /handler/) : running)
      await assert.rejects(late!, /after its end: is an await missing/)
    }
    assert.deepEqual((await db.query(`SELECT n FROM ${schema}.effect`)).rows, [])
    assert.throws(() => poolTransaction({} as never), { name: 'TypeError', message: /poolTransaction: pool must be an object with connect/ })
    const single = poolTransaction({ connect: async () => undefined as never }) // As a pg.Client does.
    await assert.rejects(
      single(async () => assert.fail()),
      { name: 'TypeError', message: /a pg.Pool, not a pg.Client/ },
    )
  })

  test('handlers that share a transaction cannot roll back to a savepoint, which would undo what the others did', async () => {
    const { inbox, database, db, schema } = await open()
    await db.query(`CREATE TABLE ${schema}.effect (handler text)`)
    const { runTogether } = inbox.runner(poolTransaction(database.pool!))
    for (const [text, told] of [
      ['SAVEPOINT mine', /SAVEPOINT would take effect for all handlers/],
      ['  rollback to savepoint mine', /ROLLBACK would/],
      ['COMMIT', /COMMIT would/],
      ['/* app: x */ SAVEPOINT mine', /SAVEPOINT would/],
      ["-- it's mine\nSAVEPOINT mine", /SAVEPOINT would/],
      ['; SAVEPOINT mine', /SAVEPOINT would/],
      ["SELECT ';'; ROLLBACK", /ROLLBACK would/],
      ["PREPARE TRANSACTION 'x'", /PREPARE TRANSACTION would/],
    ] as const) {
      const run = runTogether({ id: 'm' }, ['a', 'b'], async (tx) => {
        await tx.query(`INSERT INTO ${schema}.effect VALUES ('b')`)
        await tx.query(text).catch(() => undefined)
      })
      await assert.rejects(run, { name: 'TypeError', message: told })
    }
    assert.deepEqual((await db.query(`SELECT handler FROM ${schema}.effect`)).rows, [])
    const harmless = runTogether({ id: 'm' }, ['a'], async (tx) => {
      await tx.query(`INSERT INTO ${schema}.effect VALUES ('; SAVEPOINT x'), (CASE WHEN true THEN 'b' END) -- ; COMMIT`)
      await tx.query(`/* ROLLBACK */ INSERT INTO ${schema}.effect SELECT $$x; COMMIT$$`)
    })
    await harmless
    assert.equal((await db.query(`SELECT handler FROM ${schema}.effect`)).rows.length, 3)
  })

  test('a connection that is cut while its handler does something else fails that run alone, and leaves the pool', async () => {
    const { inbox, database } = await open()
    const pool = database.pool!
    const { run } = inbox.runner(poolTransaction(pool))
    const pids: unknown[] = []
    const pidOf = async (tx: Transaction): Promise<void> => void pids.push((await tx.query('SELECT pg_backend_pid() AS pid')).rows[0])
    const cut = run({ id: 'm' }, 'h', async (tx) => {
      await pidOf(tx)
      await pool.query('SELECT pg_terminate_backend($1)', [(pids[0] as { pid: number }).pid])
      await new Promise((resolve) => setTimeout(resolve, 50))
    })
    await assert.rejects(cut)
    for (let i = 0; i < 20; i++) await run({ id: `m${i}` }, 'h', pidOf)
    assert.ok(!pids.slice(1).some((row) => (row as { pid: number }).pid === (pids[0] as { pid: number }).pid))
  })

  test('every message delivered three times, by eight at once: each effect once', async () => {
    const { inbox, transaction, db, schema } = await open()
    await db.query(`CREATE TABLE ${schema}.effect (message text, handler text)`)
    const deliveries = Array.from({ length: 100 }, (_, n) => [n, n, n])
      .flat()
      .flatMap((n) => ['stats', 'audit'].map((handler) => ({ id: `m${n}`, handler })))
      .toSorted(() => Math.random() - 0.5)
    const outcomes: boolean[] = []
    const deliver = async (): Promise<void> => {
      for (let delivery; (delivery = deliveries.pop());) {
        const { id, handler } = delivery
        const once = await transaction((tx) => inbox.once(tx, id, handler, () => tx.query(`INSERT INTO ${schema}.effect VALUES ($1, $2)`, [id, handler])))
        outcomes.push(once.duplicate)
      }
    }
    await Promise.all(Array.from({ length: 8 }, deliver))
    assert.equal(outcomes.filter((duplicate) => !duplicate).length, 200)
    const { rows } = await db.query(`SELECT count(*)::int AS n, count(DISTINCT (message, handler))::int AS distinct FROM ${schema}.effect`)
    assert.deepEqual(rows, [{ n: 200, distinct: 200 }])
  })

  test('cleanup deletes in steps what is older than the retention and the skew of clocks, and can be stopped', async () => {
    const { db, schema, inbox } = await open()
    await db.query(`INSERT INTO ${schema}.inbox SELECT 'm' || n, 'h', now() - interval '61 s' FROM generate_series(1, 25000) n`)
    await db.query(`INSERT INTO ${schema}.inbox SELECT 'n' || n, 'h', now() - interval '50 s' FROM generate_series(1, 10) n`)
    const aborted = AbortSignal.abort(new Error('stop'))
    await assert.rejects(inbox.cleanup(db, { signal: aborted }), /stop/)
    assert.equal(await createInbox({ schema, retentionMs: 60_000 }).cleanup(db), 0, 'within an hour of skew')
    assert.equal(await inbox.cleanup(db), 25_000)
    assert.deepEqual((await db.query(`SELECT count(*)::int AS n FROM ${schema}.inbox`)).rows, [{ n: 10 }])
  })
})
