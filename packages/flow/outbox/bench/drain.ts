import type { Pool } from 'pg'
import type { Case, Group } from '../../../../bench/kit.ts'
import { boss, graphile, quiet } from '../../../../bench/job-queues.ts'
import { relay, type PublishedMessage, type RelayOptions } from '../src/index.ts'
import { freshPool } from '../../../../bench/postgres.ts'
import { inTransaction } from '../../../../tests/kit/postgres.ts'
import { body, createHandTable, headers, ours, peers, text } from './tables.ts'

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

export const draining: Group = {
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

export const backlog: Group = {
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
