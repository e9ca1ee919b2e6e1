import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import { type Connection, open } from './client.ts'
import { type Running, type Service, start, tenants } from './world.ts'

const connections = 64
const warmUpMs = 3_000
const postMs = 10_000
/** Between two looks at the statistics: at least this, and so long that looking takes a tenth of the time at most. It must not make a service that is behind slower still. */
const lookMs = 5
/** A service that is that far behind has shown what it can do; its lags count as they are then. */
const patienceMs = 30_000

/** What one run gave, name by name. */
export type Figures = Readonly<Record<string, number>>

/** As many posts as 64 connections get answered, each sending the next when it has the answer; the worker beside it does what it can. */
export async function throughput(service: Service): Promise<Figures> {
  const running = await start(service)
  try {
    const open = await connected(running.url)
    const latencies: number[] = []
    let from = Infinity
    const until = performance.now() + warmUpMs + postMs
    const posting = open.map(async (connection) => {
      for (let sent = performance.now(); sent < until;) {
        await connection.post()
        const now = performance.now()
        if (sent >= from) latencies.push(now - sent)
        sent = now
      }
    })
    const all = Promise.all(posting)
    await Promise.race([sleep(warmUpMs), all])
    const [before, cpuBefore] = [await handled(running.db), running.cpu()]
    from = performance.now()
    await all
    const seconds = (performance.now() - from) / 1_000
    const [after, cpuAfter] = [await handled(running.db), running.cpu()]
    for (const connection of open) connection.close()
    const posts = latencies.length
    return {
      requests: posts / seconds,
      p50: quantile(latencies, 0.5),
      p99: quantile(latencies, 0.99),
      handled: (after - before) / seconds,
      serviceCpu: (cpuAfter.service - cpuBefore.service) / posts,
      databaseCpu: (cpuAfter.database - cpuBefore.database) / posts,
    }
  } finally {
    await running.close()
  }
}

/** Posts sent by the clock, 500 a second for 20 s, whatever is answered; from the 201 until the statistics have it. */
export async function lag(service: Service, { perSecond = 500, seconds = 20 }: { perSecond?: number; seconds?: number } = {}): Promise<Figures> {
  const running = await start(service)
  try {
    const idle = await connected(running.url)
    await paced(idle, perSecond, warmUpMs / 1_000, () => {})
    const answered = new Map<string, number>()
    const lags: number[] = []
    let lastAnswer = Infinity
    const watch = async (): Promise<void> => {
      while (lastAnswer === Infinity || (answered.size > 0 && performance.now() < lastAnswer + patienceMs)) {
        const asked = performance.now()
        const seen = await counted(running.db, [...answered.keys()])
        const now = performance.now()
        for (const id of seen) {
          lags.push(now - answered.get(id)!)
          answered.delete(id)
        }
        await sleep(Math.max(lookMs, 9 * (now - asked)))
      }
    }
    const watching = watch()
    watching.catch(() => {}) // awaited below, unless posting fails first
    const before = running.cpu()
    const started = performance.now()
    await paced(idle, perSecond, seconds, (id) => answered.set(id, performance.now()))
    lastAnswer = performance.now()
    await watching
    const after = running.cpu()
    for (const connection of idle) connection.close()
    const handled = lags.length
    for (const at of answered.values()) lags.push(performance.now() - at)
    return {
      posted: (perSecond * seconds) / ((lastAnswer - started) / 1_000),
      unhandled: answered.size,
      lag50: quantile(lags, 0.5),
      lag99: quantile(lags, 0.99),
      serviceCpu: (after.service - before.service) / handled,
      databaseCpu: (after.database - before.database) / handled,
    }
  } finally {
    await running.close()
  }
}

const connected = (url: string): Promise<Connection[]> => Promise.all(Array.from({ length: connections }, () => open(url)))

/** Posts at an even pace; who finds no idle connection waits for one. */
async function paced(idle: Connection[], perSecond: number, seconds: number, onAnswer: (id: string) => void): Promise<void> {
  const waiting: (() => void)[] = []
  const one = async (): Promise<void> => {
    while (idle.length === 0) await new Promise<void>((resolve) => waiting.push(resolve))
    const connection = idle.shift()! // in turn, so that the service sees none idle for long
    onAnswer(await connection.post())
    idle.push(connection)
    waiting.shift()?.()
  }
  const total = perSecond * seconds
  const started = performance.now()
  const posts: Promise<void>[] = []
  while (posts.length < total) {
    const due = Math.min(total, ((performance.now() - started) / 1_000) * perSecond)
    while (posts.length < due) posts.push(one())
    await sleep(1)
  }
  await Promise.all(posts)
}

/** Events of which every handler is done. */
async function handled(db: Client): Promise<number> {
  const { rows } = await db.query<{ n: number }>('SELECT (count(*) / 3)::integer AS n FROM activelog.inbox')
  return rows.at(0)!.n
}

/** Which of these activities are in the statistics: `counted` is written with them. */
async function counted(db: Running['db'], ids: readonly string[]): Promise<readonly string[]> {
  if (ids.length === 0) return []
  const each = tenants.map((tenant) => `SELECT activity_id AS id FROM tenant_${tenant}.counted WHERE activity_id = ANY($1::uuid[])`)
  const { rows } = await db.query<{ id: string }>({ name: 'counted', text: each.join(' UNION ALL '), values: [ids] })
  return rows.map(({ id }) => id)
}

function quantile(values: readonly number[], q: number): number {
  const sorted = Float64Array.from(values).sort()
  return sorted.at(Math.min(sorted.length - 1, Math.floor(sorted.length * q)))!
}
