import { createRequire } from 'node:module'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Case, Group, Suite } from '../../../../bench/kit.ts'
import { versionOf } from '../../../../bench/kit.ts'
import { boss, graphile, quiet } from '../../../../bench/job-queues.ts'
import { freshPool, postgresWorld, window } from '../../../../bench/postgres.ts'
import { type Broker, createBroker, memoryDriver, type SubscribeOptions } from '../src/index.ts'
import { postgresDriver } from '../src/postgres.ts'
import { createRaw } from './raw.ts'
import { body, drain } from './world.ts'

const peers = join(import.meta.dirname, 'peers')
const require = createRequire(join(peers, 'package.json'))
const total = 100_000
const keyOf = (i: number): string => `user-${i % 1_000}`

const onPostgres = async (): Promise<Broker> => {
  const broker = createBroker(postgresDriver({ client: (await freshPool()).pool }))
  await broker.createTopic('bench', { groups: ['readers'] })
  return broker
}

const filled = async (broker: Broker, n: number): Promise<void> => {
  for (let i = 0; i < n; i += 1_000)
    await broker.publishBatch(Array.from({ length: Math.min(1_000, n - i) }, (_, j) => ({ topic: 'bench', key: keyOf(i + j), value: body })))
}

/** What is measured is a service that has run for a while: the first run in a process, which compiles, does not count. */
const warm = (one: Case): Case => ({
  ...one,
  run: async () => {
    await one.run()
    return one.run()
  },
})

const ourDrain = (about: string, options: SubscribeOptions): Case => ({
  about,
  run: async () => {
    const broker = await onPostgres()
    await filled(broker, total)
    return drain(
      total,
      (count) => broker.subscribe('bench', { group: 'readers', prefetch: 2_000, ...options }, count),
      () => broker.close(),
    )
  },
})

const text = Buffer.from(body).toString()

const publish: Group = {
  title:
    'Publish on PostgreSQL: 100,000 messages of 256 bytes, 256 at a time, each awaited, by a process that has done so once (the job queues, minutes slower, have not)',
  unit: 'messages/s',
  better: 'higher',
  baseline: 'pg by hand',
  goal: '0.90 of pg by hand, ahead of pg-boss and graphile-worker',
  cases: {
    'pg by hand': warm({
      about: 'one row a message, counter a partition, window gathered into one INSERT; nothing checked, no retry of a lost answer',
      run: async () => {
        const raw = await createRaw((await freshPool()).pool)
        return window(total, 256, (i) => raw.publish(keyOf(i), body))
      },
    }),
    '@core-backend/messaging': warm({
      about: 'the same rows, names and sizes checked, a lost answer is asked again without doubles',
      run: async () => {
        const broker = await onPostgres()
        return window(total, 256, (i) => broker.publish({ topic: 'bench', key: keyOf(i), value: body }))
      },
    }),
    'pg-boss, send': {
      about: 'a job row with its retry settings; 20,000 of them, each its own statement',
      run: async () => {
        const made = await boss(peers, (await freshPool()).url)
        return window(20_000, 256, () => made.send('bench', { text }))
      },
    },
    'graphile-worker, addJob': {
      about: 'a job row; 20,000 of them, each its own statement',
      run: async () => {
        const { pool } = await freshPool()
        const utils = await (await graphile(peers)).makeWorkerUtils({ pgPool: pool, ...quiet })
        await utils.migrate()
        return window(20_000, 256, () => utils.addJob('bench', { text }))
      },
    },
  },
}

const consume: Group = {
  title: 'Drain on PostgreSQL: 100,000 messages of 256 bytes, progress stored, by a process that has done so once (the job queues have not)',
  unit: 'messages/s',
  better: 'higher',
  baseline: 'pg by hand',
  goal: '0.90 of pg by hand, ahead of pg-boss and graphile-worker',
  cases: {
    'pg by hand': warm({
      about: 'read by cursor, cursor stored every 500 in the background; one reader, no lease, no order but the log',
      run: async () => {
        const raw = await createRaw((await freshPool()).pool)
        for (let i = 0; i < total; i += 1_000) await Promise.all(Array.from({ length: 1_000 }, (_, j) => raw.publish(keyOf(i + j), body)))
        let finish: (() => Promise<void>) | undefined
        return drain(
          total,
          async (count) => {
            finish = await raw.drain(count)
          },
          async () => {
            while (!finish) await sleep(1)
            await finish()
          },
        )
      },
    }),
    'ours, concurrency 1': warm(ourDrain('leases, key order, retries ready, progress every 200 ms or 500 messages', { concurrency: 1 })),
    'ours, concurrency 16': warm(ourDrain('as above', { concurrency: 16 })),
    'ours, concurrency 256': warm(ourDrain('as above', { concurrency: 256 })),
    'ours, 16, the first of its process': ourDrain('as above, compiling meanwhile', { concurrency: 16 }),
    'ours, 16, stored after each': warm(ourDrain('a settlement under way all the time, as job queues do', { concurrency: 16, flushEvery: 1 })),
    'pg-boss, batches of 500': {
      about: '20,000 jobs: claimed by UPDATE, completed by UPDATE, rows kept',
      run: async () => {
        const made = await boss(peers, (await freshPool()).url)
        for (let i = 0; i < 20; i++)
          await made.insert(
            'bench',
            Array.from({ length: 1_000 }, () => ({ data: { text } })),
          )
        return drain(20_000, async (count) => {
          for (;;) {
            const jobs = await made.fetch('bench', { batchSize: 500 })
            if (jobs.length === 0) return
            await made.complete(
              'bench',
              jobs.map((job) => job.id),
            )
            for (const _ of jobs) count()
          }
        })
      },
    },
    'graphile-worker, 16 at once': {
      about: '20,000 jobs: local queue of 500, completed in batches, rows deleted; LISTEN and NOTIFY',
      run: async () => {
        const { pool } = await freshPool(20)
        const { makeWorkerUtils, run } = await graphile(peers)
        const utils = await makeWorkerUtils({ pgPool: pool, ...quiet })
        await utils.migrate()
        for (let i = 0; i < 20; i++) await utils.addJobs(Array.from({ length: 1_000 }, () => ({ identifier: 'bench', payload: { text } })))
        let runner: { stop(): Promise<void> } | undefined
        return drain(
          20_000,
          async (count) => {
            runner = await run({
              pgPool: pool,
              noHandleSignals: true,
              taskList: { bench: () => count() },
              preset: { worker: { concurrentJobs: 16, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
              ...quiet,
            })
          },
          async () => runner?.stop(),
        )
      },
    },
  },
}

const laneWork = Array.from({ length: 10_000 }, (_, i) => (i * 7_919) % 6)
const lanes = (about: string, options: SubscribeOptions): Case => ({
  about,
  run: async () => {
    const broker = createBroker(memoryDriver())
    await broker.createTopic('bench', { partitions: 1, groups: ['readers'] })
    await filled(broker, laneWork.length)
    let n = 0
    const started = performance.now()
    await new Promise<void>((resolve, reject) => {
      const handle = async (): Promise<void> => {
        const ms = laneWork[n % laneWork.length]!
        await sleep(ms)
        if (++n === laneWork.length) resolve()
      }
      broker.subscribe('bench', { group: 'readers', prefetch: 2_000, maxInFlight: 4_000, ...options }, handle).catch(reject)
    })
    return (performance.now() - started) / 1_000
  },
})

const keyLanes: Group = {
  title: 'Key lanes: 10,000 messages of 0 to 5 ms on one partition, 1,000 keys',
  unit: 's',
  better: 'lower',
  baseline: 'one after another',
  goal: 'under 0.10 of the serial time',
  cases: {
    'one after another': lanes("order: 'partition'", { order: 'partition' }),
    'key order, 64 at once': lanes("order: 'key', each key in sequence", { concurrency: 64 }),
    'no order, 64 at once': lanes("order: 'none'", { concurrency: 64, order: 'none' }),
  },
}

interface Emitter {
  on(name: string, handler: (event: unknown) => unknown): void
  emit(name: string, data: unknown): Promise<void>
}

const memory: Group = {
  title: 'In memory: 100,000 messages of 256 bytes, 256 at a time, each handled, by a process that has done so once',
  unit: 'messages/s',
  better: 'higher',
  baseline: 'fastq',
  cases: {
    fastq: warm({
      about: 'calls a worker, bounded concurrency; keeps nothing, no groups, keys, retries or dead letters',
      run: async () => {
        const fastq = require('fastq') as { promise(worker: (task: unknown) => Promise<void>, concurrency: number): { push(task: unknown): Promise<void> } }
        const queue = fastq.promise(async () => undefined, 16)
        return window(total, 256, () => queue.push(body))
      },
    }),
    emittery: warm({
      about: 'calls listeners and waits for them; as fastq, and no bound',
      run: async () => {
        const { default: Emittery } = (await import(require.resolve('emittery'))) as { default: new () => Emitter }
        const emitter = new Emittery()
        emitter.on('bench', async () => undefined)
        return window(total, 256, () => emitter.emit('bench', body))
      },
    }),
    '@core-backend/messaging': warm({
      about: 'published and handled: stored, copied, partitioned, key order, watermark, redelivery',
      run: async () => {
        const broker = createBroker(memoryDriver())
        let handled = 0
        await broker.createTopic('bench', { groups: ['readers'] })
        await broker.subscribe('bench', { group: 'readers', concurrency: 16, prefetch: 1_000 }, async () => void handled++)
        const started = performance.now()
        await window(total, 256, (i) => broker.publish({ topic: 'bench', key: keyOf(i), value: body }))
        while (handled < total) await sleep(1)
        return (total / (performance.now() - started)) * 1_000
      },
    }),
  },
}

/** CPU of this process over ten idle seconds with 100 subscriptions, in ms of each second. */
const idleCpu = async (broker: Broker): Promise<number> => {
  for (let i = 0; i < 100; i++) await broker.subscribe(`topic-${i}`, { group: 'readers' }, () => undefined)
  await sleep(3_000)
  const before = process.cpuUsage()
  await sleep(10_000)
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 10_000
}
const idleRss = async (broker: Broker): Promise<number> => {
  for (let i = 0; i < 100; i++) await broker.subscribe(`topic-${i}`, { group: 'readers' }, () => undefined)
  await sleep(1_000)
  globalThis.gc?.()
  return process.memoryUsage.rss() / 1_048_576
}
const noSubscriptions = 'a process that imported both drivers and subscribed to nothing'

const idle: Group = {
  title: 'Idle: CPU with 100 subscriptions',
  unit: 'ms CPU/s',
  better: 'lower',
  baseline: 'memory',
  cases: {
    memory: { about: 'leases renewed every 2.5 s', run: () => idleCpu(createBroker(memoryDriver())) },
    postgres: {
      about: 'one statement a second, one for the leases',
      run: async () => idleCpu(createBroker(postgresDriver({ client: (await freshPool()).pool }))),
    },
  },
}
const idleMemory: Group = {
  title: 'Idle: resident memory with 100 subscriptions',
  unit: 'MiB',
  better: 'lower',
  baseline: 'none',
  cases: {
    none: { about: noSubscriptions, run: async () => (globalThis.gc?.(), process.memoryUsage.rss() / 1_048_576) },
    memory: { about: '', run: () => idleRss(createBroker(memoryDriver())) },
    postgres: { about: 'with a pool of 10 connections', run: async () => idleRss(createBroker(postgresDriver({ client: (await freshPool()).pool }))) },
  },
}

export const suite: Suite = {
  title: 'messaging, measured',
  about:
    'Peers at their recommended settings for throughput; each row says what it keeps. Where a peer works statement by statement, that is its interface for one message.',
  peers,
  groups: { publish, consume, lanes: keyLanes, memory, idle, idleMemory },
  setup: async () => {
    const world = await postgresWorld()
    const names = ['pg', 'pg-boss', 'graphile-worker', 'emittery', 'fastq']
    return { ...world, versions: [world.versions, ...names.map((name) => versionOf(peers, name))].join(', ') }
  },
}
