import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Case, type Group, type Suite, versionOf } from '../../../bench/kit.ts'
import { postgresWorld } from '../../../bench/postgres.ts'
import { type Figures, lag, throughput } from './measure.ts'
import { type Service, setting } from './world.ts'

const twin = join(import.meta.dirname, 'twin')
const byHand: Service = { args: [join(twin, 'main.ts')] }

const services: Readonly<Record<string, { service: Service; about: string }>> = {
  'by hand': {
    service: byHand,
    about:
      'fastify and pg, pipelined statements; the same rows, transactions and tracing calls, one process. Left out: retries, handlers that do not suffer from each other, dead letters, parking, leases and several relays or workers, validation of events, 409 while a key is busy, PATCH and DELETE',
  },
  activelog: {
    service: { args: ['--conditions=@core-backend/source', join(import.meta.dirname, '../src/main.ts')] },
    about: 'the application as `npm start` runs it, `DATABASE_URL` given; statements of a turn leave in one write',
  },
  'by hand, statement by statement': {
    service: { ...byHand, env: { PIPELINE: 'off' } },
    about: 'as the first, each statement awaited before the next, as most code on pg is written',
  },
}

/** One run gives several figures, each for a group of its own: what a group has measured waits in a file for the next group's turn. */
const shared = (kind: 'throughput' | 'lag', figure: string): Group['cases'] =>
  Object.fromEntries(
    Object.entries(services).map(([name, { service, about }]): [string, Case] => [
      name,
      {
        about,
        run: async () => {
          const folder = join(setting('BENCH_FOLDER'), kind, name)
          mkdirSync(folder, { recursive: true })
          const round = counter(join(folder, figure))
          const file = join(folder, `${round}.json`)
          if (!existsSync(file)) {
            const figures = await (kind === 'lag' ? lag : throughput)(service)
            writeFileSync(file, JSON.stringify(figures))
            process.stderr.write(`  ${name}: ${shown(figures)}\n`)
          }
          return new Map(Object.entries(JSON.parse(readFileSync(file, 'utf8')) as Figures)).get(figure)!
        },
      },
    ]),
  )

/** 1, 2, 3 … over the processes that ask. */
function counter(file: string): number {
  const next = existsSync(file) ? Number(readFileSync(file, 'utf8')) + 1 : 1
  writeFileSync(file, String(next))
  return next
}

const shown = (figures: Figures): string =>
  Object.entries(figures)
    .map(([name, value]) => `${name} ${value.toPrecision(3)}`)
    .join(', ')

const baseline = 'by hand'
const posting = '64 connections, for 10 s after 3 s'

export const suite: Suite = {
  title: 'ActiveLog, measured',
  about:
    'The application against its twin: the same service written straight on fastify and pg, without a package of ours. Both do everything in one process: requests, relay, worker, live events. The load comes from a process of its own on the same machine.',
  peers: twin,
  groups: {
    requests: {
      title: `POST /activities, ${posting}`,
      unit: 'requests/s',
      better: 'higher',
      baseline,
      goal: 'at least 0.85 of by hand',
      cases: shared('throughput', 'requests'),
    },
    p99: { title: `Answering, 99th percentile; ${posting}`, unit: 'ms', better: 'lower', baseline, cases: shared('throughput', 'p99') },
    handled: {
      title: `Events handled meanwhile, each by three handlers; ${posting}`,
      unit: 'events/s',
      better: 'higher',
      baseline,
      cases: shared('throughput', 'handled'),
    },
    reached: {
      title: 'Of 500 posts/s sent by the clock for 20 s, answered; where it is fewer, the lags below are those of an overloaded machine',
      unit: 'posts/s',
      better: 'higher',
      baseline,
      cases: shared('lag', 'posted'),
    },
    lag: {
      title: 'From the 201 to the statistics at 500 posts/s for 20 s, 99th percentile',
      unit: 'ms',
      better: 'lower',
      baseline,
      goal: 'within a second',
      cases: shared('lag', 'lag99'),
    },
    lagMedian: { title: 'The same, median', unit: 'ms', better: 'lower', baseline, cases: shared('lag', 'lag50') },
    cpu: {
      title: 'CPU of the service for each of these posts and its event, at 500 posts/s',
      unit: 'ms',
      better: 'lower',
      baseline,
      cases: shared('lag', 'serviceCpu'),
    },
    databaseCpu: {
      title: 'CPU of the database server for the same',
      unit: 'ms',
      better: 'lower',
      baseline,
      cases: shared('lag', 'databaseCpu'),
    },
  },
  setup: async () => {
    const world = await postgresWorld()
    return { ...world, versions: [world.versions, ...['fastify', 'pg'].map((name) => versionOf(twin, name))].join(', ') }
  },
}
