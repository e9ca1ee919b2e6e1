import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Pool } from 'pg'
import { openDatabase } from '../../../../apps/activelog/src/infrastructure/database.ts'
import { versionOf, type Case, type Group, type Suite } from '../../../../bench/kit.ts'
import { boss, graphile, quiet } from '../../../../bench/job-queues.ts'
import { createOutbox, relay, type OutboxMessage, type PublishedMessage, type RelayOptions, type Transaction } from '../src/index.ts'
import { freshPool, postgresWorld, window } from '../../../../bench/postgres.ts'
import { inTransaction } from '../../../../tests/kit/postgres.ts'

/** A private project with pinned versions. */
const peers = join(import.meta.dirname, 'peers')
const body = Buffer.from(
  JSON.stringify({ id: 'x'.repeat(36), userId: 4711, type: 'running', title: 'Morning run', durationMinutes: 45, notes: 'x'.repeat(120) }),
)
const headers = {
  ce_specversion: '1.0',
  ce_type: 'activity.created',
  ce_source: '/activities',
  ce_time: '2026-11-21T10:00:00.000Z',
  tenant: 'acme',
  'content-type': 'application/json',
}
const event = (i: number): OutboxMessage => ({ topic: 'activities', key: `activity-${i % 1_000}`, value: body, headers })
const text = body.toString()

// --- the business transaction ---

/** What makes the event go along. */
type HandOff = (tx: Transaction, i: number) => Promise<unknown>

/** ActiveLog's POST: the idempotency row and the activity, at 16 connections. `together`: through ActiveLog's own pool, no statement waits for the answer to the one before. */
const business = (about: string, prepare: (pool: Pool, url: string) => Promise<HandOff>, { together = false } = {}): Case => ({
  about,
  run: async () => {
    const { pool, url } = await freshPool(16)
    await pool.query(`
      CREATE TABLE idempotency (tenant text, key text, body_hash bytea NOT NULL, response json, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant, key));
      CREATE TABLE activity (id uuid PRIMARY KEY, user_id integer NOT NULL, type text NOT NULL, title text NOT NULL, duration_minutes integer NOT NULL, notes text,
        activity_date date NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), version integer NOT NULL DEFAULT 1);
      CREATE INDEX ON activity (user_id, activity_date)`)
    const handOff = await prepare(pool, url)
    const hash = Buffer.alloc(32, 7)
    const statements: readonly HandOff[] = [
      (tx, i) =>
        tx.query('INSERT INTO idempotency (tenant, key, body_hash, response) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING key', [
          'acme',
          `key-${i}`,
          hash,
          text,
        ]),
      (tx, i) =>
        tx.query(
          'INSERT INTO activity (id, user_id, type, title, duration_minutes, notes, activity_date) VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $6) RETURNING id',
          [i % 500, 'running', 'Morning run', 45, 'x'.repeat(120), '2026-11-21'],
        ),
      handOff,
    ]
    const pipelined = openDatabase(url, { name: 'bench', max: 16 })
    const post = together
      ? (i: number): Promise<unknown> => pipelined.transaction((tx) => Promise.all(statements.map((send) => send(tx, i))))
      : (i: number): Promise<unknown> =>
          inTransaction(pool, async (tx) => {
            for (const send of statements) await send(tx, i)
          })
    await window(1_000, 16, (i) => post(1_000_000 + i))
    return window(6_000, 16, post)
  },
})

const ours = async (pool: Pool, options: Parameters<typeof createOutbox>[0] = {}): Promise<ReturnType<typeof createOutbox>> => {
  const outbox = createOutbox(options)
  await pool.query(outbox.schema())
  return outbox
}

const aboutHand = 'id, topic, key, body and headers into a table with a primary key'
const insertByHand = async (pool: Pool): Promise<HandOff> => {
  await createHandTable(pool)
  return (tx, i) =>
    tx.query('INSERT INTO hand (topic, key, value, headers) VALUES ($1, $2, $3, $4)', ['activities', `activity-${i % 1_000}`, body, JSON.stringify(headers)])
}

const adding: Group = {
  title: "Business transaction: ActiveLog's POST (idempotency row, activity) at 16 connections",
  unit: 'transactions/s',
  better: 'higher',
  baseline: 'without an event',
  goal: 'at least 0.85 with outbox.add',
  cases: {
    'without an event': business('what the others are measured against', async () => async () => undefined),
    'outbox.add': business('one message', async (pool) => {
      const outbox = await ours(pool)
      return (tx, i) => outbox.add(tx, event(i))
    }),
    'outbox.add, notify': business('one message, and NOTIFY at commit', async (pool) => {
      const outbox = await ours(pool, { notify: true })
      return (tx, i) => outbox.add(tx, event(i))
    }),
    'INSERT by hand': business(aboutHand, insertByHand),
    'pg-boss, send': business('a job row', async (_, url) => {
      const made = await boss(peers, url)
      return (tx) => made.send('bench', { text }, { db: { executeSql: (sql: string, values?: unknown[]) => tx.query(sql, values) } })
    }),
    'graphile-worker, add_job': business('a job row; NOTIFY by trigger', async (pool) => {
      const utils = await (await graphile(peers)).makeWorkerUtils({ pgPool: pool, ...quiet })
      await utils.migrate()
      return (tx) => tx.query(`SELECT graphile_worker.add_job('bench', $1::json)`, [JSON.stringify({ text })])
    }),
  },
}

const addingTogether: Group = {
  title: 'The same transaction, its statements prepared and sent without waiting for each other, as ActiveLog sends them',
  unit: 'transactions/s',
  better: 'higher',
  baseline: 'without an event',
  goal: 'at least 0.85 with outbox.add',
  cases: {
    'without an event': business('what the other is measured against', async () => async () => undefined, { together: true }),
    'outbox.add': business(
      'one message',
      async (pool) => {
        const outbox = await ours(pool)
        return (tx, i) => outbox.add(tx, event(i))
      },
      { together: true },
    ),
    'INSERT by hand': business(aboutHand, insertByHand, { together: true }),
  },
}

// --- the relay ---

const createHandTable = (pool: Pool): Promise<unknown> =>
  pool.query(
    'CREATE TABLE hand (id bigserial PRIMARY KEY, topic text NOT NULL, key text, value bytea NOT NULL, headers json, created_at timestamptz NOT NULL DEFAULT clock_timestamp())',
  )
const fillHand = (pool: Pool, n: number): Promise<unknown> =>
  pool.query(`INSERT INTO hand (topic, key, value, headers) SELECT 'activities', 'activity-' || i % 1000, $1, $2 FROM generate_series(1, $3::int) i`, [
    body,
    JSON.stringify(headers),
    n,
  ])
const fillOurs = (pool: Pool, n: number): Promise<unknown> =>
  pool.query(
    `INSERT INTO outbox (message_id, topic, key, value, headers) SELECT gen_random_uuid()::text, 'activities', 'activity-' || i % 1000, $1, $2 FROM generate_series(1, $3::int) i`,
    [body, JSON.stringify(headers), n],
  )

/** Confirms at once; counts. */
function confirming(total: number): { publishBatch(messages: readonly unknown[]): Promise<{ status: 'stored' }[]>; done: Promise<void> } {
  const { promise, resolve } = Promise.withResolvers<void>()
  let n = 0
  return {
    done: promise,
    publishBatch: async (messages) => {
      n += messages.length
      if (n >= total) resolve()
      return messages.map(() => ({ status: 'stored' }))
    },
  }
}

/** What a careful engineer writes: claim by delete, publish, commit. Holds the transaction while it publishes, and two of them break the order of keys. */
async function drainByHand(pool: Pool, total: number): Promise<void> {
  const { publishBatch, done } = confirming(total)
  const stop = new AbortController()
  void done.then(() => stop.abort())
  while (!stop.signal.aborted) {
    await inTransaction(pool, async (tx) => {
      const { rows } = await tx.query(
        `WITH gone AS (DELETE FROM hand WHERE id IN (SELECT id FROM hand ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED) RETURNING *)
         SELECT id::text AS id, topic, key, value, headers, created_at FROM gone ORDER BY gone.id`,
      )
      const messages = (rows as { id: string; topic: string; key: string; value: Uint8Array; headers: Record<string, string>; created_at: Date }[]).map(
        ({ created_at: at, ...row }): PublishedMessage => ({ ...row, timestamp: at.getTime() }),
      )
      await publishBatch(messages)
    })
  }
}

const timed = async (total: number, work: () => Promise<unknown>): Promise<number> => {
  const started = performance.now()
  await work()
  return (total / (performance.now() - started)) * 1_000
}

/** Somebody looks at a snapshot all the while, as a dump or a report does. */
const withSnapshot = async (pool: Pool): Promise<void> => {
  const client = await pool.connect()
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
  await client.query('SELECT 1')
}

const byHand = (about: string, backlog: number, total: number, before: (pool: Pool) => Promise<void> = async () => undefined): Case => ({
  about,
  run: async () => {
    const { pool } = await freshPool(16)
    await createHandTable(pool)
    await fillHand(pool, backlog)
    await before(pool)
    return timed(total, () => drainByHand(pool, total))
  },
})

const relayed = (
  about: string,
  backlog: number,
  total: number,
  before: (pool: Pool) => Promise<void> = async () => undefined,
  options: Partial<RelayOptions> = {},
): Case => ({
  about,
  run: async () => {
    const { pool } = await freshPool(16)
    const outbox = await ours(pool)
    await fillOurs(pool, backlog)
    await before(pool)
    const publisher = confirming(total)
    const moving = relay({ db: pool, outbox, publisher, ...options })
    return timed(total, async () => {
      await moving.start()
      await publisher.done
      if (backlog === total) await moving.close()
    })
  },
})

const total = 100_000

const draining: Group = {
  title: 'Relay: a backlog of 100,000 events of 250 bytes into a publisher that confirms at once, batches of 500',
  unit: 'events/s',
  better: 'higher',
  baseline: 'batch delete by hand',
  goal: '0.70 of batch delete by hand, ahead of pg-boss and graphile-worker',
  cases: {
    'batch delete by hand': byHand('SKIP LOCKED; one relay only may run, else keys lose their order; a failed batch blocks all', total, total),
    '@core-backend/outbox': relayed('leases, order by key with any number of relays, poison parked, start and close included', total, total),
    'pg-boss, batches of 500': {
      about: '20,000 jobs: claimed by UPDATE, completed by UPDATE, rows kept; no order by key',
      run: async () => {
        const made = await boss(peers, (await freshPool(16)).url)
        for (let i = 0; i < 20; i++)
          await made.insert(
            'bench',
            Array.from({ length: 1_000 }, () => ({ data: { text } })),
          )
        return timed(20_000, async () => {
          const { publishBatch } = confirming(20_000)
          for (let jobs; (jobs = await made.fetch('bench', { batchSize: 500 })).length > 0;) {
            await publishBatch(jobs)
            await made.complete(
              'bench',
              jobs.map((job) => job.id),
            )
          }
        })
      },
    },
    'graphile-worker, 16 at once': {
      about: '20,000 jobs: local queue of 500, completed in batches, rows deleted; no order by key',
      run: async () => {
        const { pool } = await freshPool(20)
        const { makeWorkerUtils, run } = await graphile(peers)
        const utils = await makeWorkerUtils({ pgPool: pool, ...quiet })
        await utils.migrate()
        for (let i = 0; i < 20; i++) await utils.addJobs(Array.from({ length: 1_000 }, () => ({ identifier: 'bench', payload: { text } })))
        const { publishBatch, done } = confirming(20_000)
        return timed(20_000, async () => {
          const runner = await run({
            pgPool: pool,
            noHandleSignals: true,
            taskList: { bench: (job) => publishBatch([job]) },
            preset: { worker: { concurrentJobs: 16, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
            ...quiet,
          })
          await done
          await runner.stop()
        })
      },
    },
  },
}

const backlog: Group = {
  title: 'Relay: 50,000 events, by what else is in the table',
  unit: 'events/s',
  better: 'higher',
  baseline: 'ours, nothing else',
  goal: 'no slow-down at a backlog of a million',
  cases: {
    'ours, nothing else': relayed('', 50_000, 50_000),
    'ours, a million behind': relayed('never analyzed: the planner thinks that the table is empty', 1_000_000, 50_000),
    'ours, a long transaction': relayed('a snapshot is held: no deleted row can be removed', 50_000, 50_000, withSnapshot),
    'by hand, a million behind': byHand('', 1_000_000, 50_000),
    'by hand, a long transaction': byHand('', 50_000, 50_000, withSnapshot),
  },
}

// --- lag ---

/** From the commit to the publisher, at 500 transactions a second for ten seconds; the 99th percentile. */
async function lag(add: (id: string) => Promise<unknown>, heard: (onPublished: (id: string) => void) => Promise<unknown>): Promise<number> {
  const committed = new Map<string, number>()
  const lags: number[] = []
  await heard((id) => {
    lags.push(performance.now() - (committed.get(id) ?? performance.now()))
  })
  await sleep(2_000)
  const perTick = 5
  const ticks = 1_000
  const adding: Promise<unknown>[] = []
  const started = performance.now()
  for (let tick = 0; tick < ticks; tick++) {
    for (let j = 0; j < perTick; j++) {
      const id = `e-${tick * perTick + j}`
      adding.push(add(id).then(() => void (committed.has(id) || committed.set(id, performance.now()))))
    }
    await sleep(Math.max(0, started + (tick + 1) * 10 - performance.now()))
  }
  await Promise.all(adding)
  while (lags.length < perTick * ticks) await sleep(20)
  return lags.toSorted((a, b) => a - b)[Math.floor(lags.length * 0.99)]!
}

const oursLag = (about: string, mode: 'poll' | 'wake' | 'notify'): Case => ({
  about,
  run: async () => {
    const { pool, url } = await freshPool(16)
    const outbox = await ours(pool, { notify: mode === 'notify' })
    let moving: ReturnType<typeof relay> | undefined
    return lag(
      async (id) => {
        await inTransaction(pool, (tx) => outbox.add(tx, { ...event(0), id, key: id }))
        if (mode === 'wake') moving?.wake()
      },
      async (onPublished) => {
        moving = relay({
          db: pool,
          outbox,
          ...(mode === 'notify' && { wake: 'poll+notify', listen: (channel, onWake) => listen(url, channel, onWake) }),
          publisher: {
            publishBatch: async (messages) => {
              for (const { id } of messages) onPublished(id)
              return messages.map(() => ({ status: 'stored' }))
            },
          },
        })
        await moving.start()
      },
    )
  },
})

async function listen(url: string, channel: string, onWake: () => void): Promise<() => Promise<void>> {
  const { Client } = await import('pg')
  const client = new Client({ connectionString: url })
  await client.connect()
  client.on('notification', onWake)
  await client.query(`LISTEN "${channel}"`)
  return () => client.end()
}

const lags: Group = {
  title: 'Lag: 500 transactions a second for ten seconds, from the commit to the publisher, 99th percentile',
  unit: 'ms',
  better: 'lower',
  baseline: 'ours, polling',
  cases: {
    'ours, polling': oursLag('pollMs 100', 'poll'),
    'ours, relay.wake()': oursLag('after each commit, in the same process', 'wake'),
    'ours, NOTIFY': oursLag('from any process', 'notify'),
    'pg-boss, work': {
      about: 'polling at its least, 0.5 s',
      run: async () => {
        const { pool, url } = await freshPool(16)
        const made = await boss(peers, url)
        return lag(
          (id) =>
            inTransaction(pool, (tx) => made.send('bench', { id, text }, { db: { executeSql: (sql: string, values?: unknown[]) => tx.query(sql, values) } })),
          (onPublished) =>
            made.work('bench', { pollingIntervalSeconds: 0.5, batchSize: 500 }, async (jobs) => {
              for (const job of jobs) onPublished(job.data.id)
            }),
        )
      },
    },
    'graphile-worker, run': {
      about: 'LISTEN and NOTIFY',
      run: async () => {
        const { pool } = await freshPool(20)
        const { makeWorkerUtils, run } = await graphile(peers)
        const utils = await makeWorkerUtils({ pgPool: pool, ...quiet })
        await utils.migrate()
        return lag(
          (id) => inTransaction(pool, (tx) => tx.query(`SELECT graphile_worker.add_job('bench', $1::json)`, [JSON.stringify({ id, text })])),
          (onPublished) =>
            run({
              pgPool: pool,
              noHandleSignals: true,
              taskList: { bench: (job) => onPublished((job as { id: string }).id) },
              preset: { worker: { concurrentJobs: 16 } },
              ...quiet,
            }),
        )
      },
    },
  },
}

export const suite: Suite = {
  title: 'outbox, measured',
  about: 'Each row says what it promises: a faster one that promises less is a floor, not a competitor.',
  peers,
  groups: { adding, addingTogether, draining, backlog, lags },
  setup: async () => {
    const world = await postgresWorld()
    return { ...world, versions: [world.versions, ...['pg', 'pg-boss', 'graphile-worker'].map((name) => versionOf(peers, name))].join(', ') }
  },
}
