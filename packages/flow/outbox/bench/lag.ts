import { setTimeout as sleep } from 'node:timers/promises'
import type { Case, Group } from '../../../../bench/kit.ts'
import { boss, graphile, quiet } from '../../../../bench/job-queues.ts'
import { relay } from '../src/index.ts'
import { freshPool } from '../../../../bench/postgres.ts'
import { inTransaction } from '../../../../tests/kit/postgres.ts'
import { event, ours, peers, text } from './tables.ts'

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

export const lags: Group = {
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
