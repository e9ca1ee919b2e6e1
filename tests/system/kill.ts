// The proof of ActiveLog: clients post while its processes are killed at random. Each 201 must be in the statistics exactly once, the events of an activity
// in order, and nothing of one tenant with another. A client repeats an unanswered POST under its Idempotency-Key, so rows = 201s = statistics.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort, type Program, startProgram } from '@core-backend/testkit/processes'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { Client } from 'pg'

const main = join(import.meta.dirname, '../../apps/activelog/src/main.ts')
const tenants = ['acme', 'globex', 'initech', 'umbrella'] as const

export interface KillOptions {
  posts: number
  /** @default 8 */
  clients?: number
  /** @default one for 50 posts, at least 6 */
  kills?: number
  /** @default a random one, which the report names */
  seed?: number
}

export interface KillReport {
  seed: number
  posts: number
  changes: number
  kills: number
  databaseKills: number
  /** Requests that had to be repeated. */
  repeated: number
  /** From a kill to the next 201, the longest, ms. */
  longestPauseMs: number
  /** From the last answer until every event was handled, ms; what a killed worker held is free once its lease has run out. */
  settledMs: number
  ms: number
}

/** What is killed: the processes of one deployment. */
interface Deployment {
  readonly urls: readonly string[]
  readonly databaseUrl: () => string
  /** Kills something with SIGKILL and brings it back; true when the database server was killed too. */
  kill(n: number, random: () => number): Promise<boolean>
  /** An orderly end. */
  close(): Promise<void>
}

/** The embedded default: one process on one folder; every third time its database server dies with it. */
export async function killEmbedded(dataDir: string, options: KillOptions): Promise<KillReport> {
  const port = await freePort()
  const start = async (): Promise<Program> => {
    const program = startProgram(main, {
      env: {
        DATA_DIR: dataDir,
        PORT: String(port),
        TENANTS: tenants.join(),
        LOG_LEVEL: 'error',
        DATABASE_URL: undefined,
        BROKER_URL: undefined,
        ROLE: undefined,
      },
    })
    await program.line(/listens on/, 60_000)
    return program
  }
  const postmaster = (): string[] => readFileSync(join(dataDir, 'cluster/postmaster.pid'), 'utf8').split('\n')
  let program = await start()
  const password = readFileSync(join(dataDir, 'pgpass'), 'utf8').trim().split(':').at(-1)
  return prove(options, {
    urls: [`http://127.0.0.1:${port}`],
    databaseUrl: () => `postgres://postgres:${password}@127.0.0.1:${postmaster()[3]}/postgres`,
    async kill(n) {
      const database = n % 3 === 2
      if (database) process.kill(Number(postmaster()[0]), 'SIGKILL')
      program.kill('SIGKILL')
      await program.exited
      program = await start()
      return database
    },
    close: () => orderly([program]),
  })
}

/** Two processes of each role on a server, killed one at a time. */
export async function killRoles(databaseUrl: string, options: KillOptions): Promise<KillReport> {
  const slots = await Promise.all(
    ['api', 'relay', 'worker', 'api', 'relay', 'worker'].map(async (role) => {
      const port = await freePort()
      const start = async (): Promise<Program> => {
        const program = startProgram(main, {
          env: { ROLE: role, PORT: String(port), TENANTS: tenants.join(), LOG_LEVEL: 'error', DATABASE_URL: databaseUrl, BROKER_URL: undefined },
        })
        await program.line(/listens on/, 60_000)
        return program
      }
      return { role, url: `http://127.0.0.1:${port}`, start, program: await start() }
    }),
  )
  return prove(options, {
    urls: slots.filter(({ role }) => role === 'api').map(({ url }) => url),
    databaseUrl: () => databaseUrl,
    async kill(_, random) {
      const slot = slots[Math.floor(random() * slots.length)]!
      slot.program.kill('SIGKILL')
      await slot.program.exited
      slot.program = await slot.start()
      return false
    },
    close: () => orderly(slots.map(({ program }) => program)),
  })
}

async function orderly(programs: readonly Program[]): Promise<void> {
  for (const program of programs) program.kill('SIGTERM')
  for (const program of programs) {
    const { code } = await program.exited
    assert.equal(code, 0, program.lines.join('\n'))
  }
}

interface Answered {
  readonly tenant: string
  readonly id: string
  readonly userId: number
  readonly minutes: number
  readonly deleted: boolean
}

async function prove(
  { posts, clients = 8, kills = Math.max(6, Math.round(posts / 50)), seed = Math.floor(Math.random() * 2 ** 31) }: KillOptions,
  deployment: Deployment,
): Promise<KillReport> {
  const random = randomFrom(seed)
  const began = performance.now()
  const answered: Answered[] = []
  const report = { seed, posts, changes: 0, kills: 0, databaseKills: 0, repeated: 0, longestPauseMs: 0, settledMs: 0, ms: 0 }
  const perKill = posts / kills
  let next = 0
  let begunKills = 0
  let killedAt: number | undefined
  let failed: unknown

  /** Repeats until answered. What is neither an answer nor a reason to repeat fails the run. */
  async function ask(n: number, method: string, path: string, tenant: string, body?: object, key?: string): Promise<{ status: number; json: unknown }> {
    for (let attempt = 0; ; attempt++) {
      if (failed !== undefined) throw failed
      try {
        const headers = { 'x-tenant-id': tenant, 'content-type': 'application/json', ...(key !== undefined && { 'idempotency-key': key }) }
        const url = deployment.urls[(n + attempt) % deployment.urls.length]!
        const response = await fetch(url + path, { method, headers, ...(body && { body: JSON.stringify(body) }), signal: AbortSignal.timeout(20_000) })
        const text = await response.text()
        if (response.status !== 503 && response.status !== 409) {
          if (killedAt !== undefined) {
            report.longestPauseMs = Math.max(report.longestPauseMs, Math.round(performance.now() - killedAt))
            killedAt = undefined
          }
          return { status: response.status, json: text === '' ? undefined : JSON.parse(text) }
        }
      } catch {
        // Killed before it answered.
      }
      report.repeated++
      await sleep(50)
    }
  }

  async function client(): Promise<void> {
    for (let n = next++; n < posts; n = next++) {
      // Not all at once: each kill has some that are under way and some that come after it, the last one too.
      const mayPost = (): boolean => begunKills === kills || n < (begunKills + 1) * perKill - clients
      await waitUntil(() => mayPost() || failed !== undefined, { guardMs: 600_000, what: `kill ${begunKills + 1}` })
      const tenant = tenants[n % tenants.length]!
      const userId = 1 + (Math.floor(n / tenants.length) % 5)
      let minutes = 1 + (n % 100)
      const draft = {
        userId,
        type: n % 2 ? 'running' : 'yoga',
        title: `Number ${n}`,
        durationMinutes: minutes,
        activityDate: `2026-0${1 + (n % 9)}-1${n % 10}`,
      }
      const { status, json } = await ask(n, 'POST', '/activities', tenant, draft, `kill-${seed}-${n}`)
      assert.equal(status, 201, JSON.stringify(json))
      const { id } = json as { id: string }
      // Some are changed twice, some of these deleted: their events must arrive in order.
      const changes = n % 5 === 0 ? 2 : 0
      for (let change = 1; change <= changes; change++) {
        minutes += 100
        assert.equal((await ask(n, 'PATCH', `/activities/${id}`, tenant, { durationMinutes: minutes })).status, 200)
        report.changes++
      }
      const deleted = n % 20 === 0
      if (deleted) {
        // 404: the answer of the first attempt was lost.
        assert.ok([204, 404].includes((await ask(n, 'DELETE', `/activities/${id}`, tenant)).status))
        report.changes++
      }
      const other = tenants[(n + 1) % tenants.length]!
      assert.equal((await ask(n, 'GET', `/activities/${id}`, other)).status, 404, 'another tenant sees it')
      answered.push({ tenant, id, userId, minutes, deleted })
    }
  }

  async function killer(): Promise<void> {
    for (; begunKills < kills;) {
      const moment = (begunKills + random()) * perKill - clients
      await waitUntil(() => answered.length >= moment || failed !== undefined, { guardMs: 600_000, what: `${Math.ceil(moment)} answers` })
      if (failed !== undefined) return
      const killing = deployment.kill(begunKills, random)
      killedAt ??= performance.now()
      begunKills++
      if (await killing) report.databaseKills++
      report.kills++
    }
  }

  try {
    await Promise.all([killer(), ...Array.from({ length: clients }, client)].map((work) => work.catch((error: unknown) => Promise.reject((failed ??= error)))))
    const lastAnswer = performance.now()
    const db = new Client({ connectionString: deployment.databaseUrl() })
    await db.connect()
    try {
      await handled(db)
      report.settledMs = Math.round(performance.now() - lastAnswer)
      await examine(db, answered)
    } finally {
      await db.end()
    }
    await examineStatistics((tenant, userId) => ask(0, 'GET', `/users/${userId}/stats`, tenant), answered)
  } finally {
    await deployment.close()
  }
  return { ...report, ms: Math.round(performance.now() - began) }
}

const each = (sql: (schema: string) => string): string => tenants.map((tenant) => sql(`tenant_${tenant}`)).join(' UNION ALL ')

async function numbers(db: Client, sql: string): Promise<Record<string, number>> {
  const { rows } = await db.query<Record<string, string>>(sql)
  return Object.fromEntries(Object.entries(rows[0]!).map(([name, value]) => [name, Number(value)]))
}

/** Every version of every activity is an event, and every event is three handlers' work. */
async function handled(db: Client): Promise<void> {
  const versions = each((s) => `SELECT sum(version) AS n FROM ${s}.activities`)
  const sql = `SELECT (SELECT sum(n) FROM (${versions}) AS v) AS posted, (SELECT count(*) FROM activelog.inbox) AS done, (SELECT count(*) FROM activelog.outbox) AS pending`
  let last = {}
  await waitUntil(
    async () => {
      const { posted, done, pending } = (last = await numbers(db, sql))
      return done === 3 * posted! && pending === 0
    },
    { guardMs: 120_000, everyMs: 100, what: 'all events to be handled' },
  ).catch((error: Error) => assert.fail(`${error.message}: ${JSON.stringify(last)}`))
}

/** What the tables say, by themselves and against the answers. */
async function examine(db: Client, answered: readonly Answered[]): Promise<void> {
  const { rows } = await db.query<{ tenant: string; id: string; minutes: number; deleted: boolean }>(
    tenants.map((t) => `SELECT '${t}' AS tenant, id::text, duration_minutes AS minutes, deleted FROM tenant_${t}.activities`).join(' UNION ALL '),
  )
  const byId = (a: { id: string }, b: { id: string }): number => (a.id < b.id ? -1 : 1)
  const told = answered.map(({ tenant, id, minutes, deleted }) => ({ tenant, id, minutes, deleted }))
  assert.deepEqual(rows.sort(byId), told.sort(byId), 'rows and 201s are the same')

  for (const tenant of tenants) {
    const s = `tenant_${tenant}`
    const differences = await numbers(
      db,
      `WITH real AS (
         SELECT user_id, activity_date AS day, type, count(*) AS activities, sum(duration_minutes) AS minutes FROM ${s}.activities WHERE NOT deleted GROUP BY 1, 2, 3
       ), kept AS (SELECT user_id, day, type, activities, minutes FROM ${s}.day_sums WHERE activities <> 0)
       SELECT (SELECT count(*) FROM (SELECT * FROM real EXCEPT SELECT * FROM kept) AS a) AS missing,
              (SELECT count(*) FROM (SELECT * FROM kept EXCEPT SELECT * FROM real) AS b) AS extra,
              (SELECT count(*) FROM ${s}.day_sums WHERE activities < 0 OR minutes < 0) AS negative`,
    )
    assert.deepEqual(differences, { missing: 0, extra: 0, negative: 0 }, `sums of ${tenant}`)
    // Each version once, recorded one after the other, with nobody else's activity.
    const order = await numbers(
      db,
      `WITH lines AS (
         SELECT activity ->> 'id' AS id, (activity ->> 'version')::integer AS version,
                row_number() OVER (PARTITION BY activity ->> 'id' ORDER BY recorded_at) AS place FROM ${s}.audit
       )
       SELECT (SELECT count(*) FROM lines WHERE version <> place) AS disorder,
              (SELECT count(*) FROM lines l WHERE NOT EXISTS (SELECT FROM ${s}.activities a WHERE a.id::text = l.id)) AS strangers,
              (SELECT count(*) FROM lines) - (SELECT sum(version) FROM ${s}.activities) AS difference`,
    )
    assert.deepEqual(order, { disorder: 0, strangers: 0, difference: 0 }, `events of ${tenant}`)
  }
}

async function examineStatistics(
  ask: (tenant: string, userId: number) => Promise<{ status: number; json: unknown }>,
  answered: readonly Answered[],
): Promise<void> {
  const users = Map.groupBy(answered, ({ tenant, userId }) => `${tenant} ${userId}`)
  for (const [user, activities] of users) {
    const [tenant = '', userId = ''] = user.split(' ')
    const { status, json } = await ask(tenant, Number(userId))
    const present = activities.filter(({ deleted }) => !deleted)
    const { activities: count, totalMinutes } = json as { activities: number; totalMinutes: number }
    const expected = { status: 200, count: present.length, totalMinutes: present.reduce((sum, { minutes }) => sum + minutes, 0) }
    assert.deepEqual({ status, count, totalMinutes }, expected, `statistics of user ${userId} of ${tenant}`)
  }
}

/** mulberry32: the same moments for the same seed. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
