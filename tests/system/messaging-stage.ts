// What a chaos scenario plays on: a topic in a database of its own, publishers and members in processes of their own, and the list of what was done to them.
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { type Broker, createBroker } from '@core-backend/messaging'
import { postgresDriver } from '@core-backend/messaging/postgres'
import { createInbox } from '@core-backend/outbox'
import { type Program, startProgram } from '@core-backend/testkit/processes'
import { waitUntil } from '@core-backend/testkit/wait-until'
import pg from 'pg'
import type { EmbeddedPostgres } from '../../apps/activelog/src/infrastructure/embedded-postgres.ts'
import { type Entry, monotonic, readJournals } from './messaging-journal.ts'
import { type Fault, judge, ownedBy, type Verdict } from './messaging-judge.ts'
import type { MemberPlan } from './messaging-member.ts'
import type { PublisherPlan } from './messaging-publisher.ts'

export const topic = 'chaos'
export const group = 'watchers'

const here = import.meta.dirname
type Crewing = Partial<Omit<MemberPlan, 'folder' | 'topic' | 'group'>>

/** Members of the group. One that ends other than by `close` is replaced, as an orchestrator would. */
export interface Crew {
  /** Those that run. */
  readonly members: ReadonlySet<Program>
  grow(to: number): Promise<void>
  /** Ends members in good order until so many are left. */
  shrink(to: number): Promise<void>
  /** SIGKILL; a fault of this member. */
  kill(member?: Program): void
  /** In good order. */
  close(): Promise<void>
  /** SIGKILL, and no replacement. */
  end(): Promise<void>
}

export interface Stage {
  readonly server: EmbeddedPostgres
  /** The database; it may also be reached through a proxy before the server's port. */
  readonly url: string
  urlAt(port: number): string
  /** Beside the processes under test, never through a proxy. */
  readonly broker: Broker
  /** A session beside the processes under test, which are known by another name. */
  readonly admin: { query<T>(sql: string, values?: unknown[]): Promise<T[]> }
  entries(): readonly Entry[]
  count(e: Entry['e']): number
  /** Waits, by what the processes write. */
  until(what: string, condition: () => unknown, guardMs?: number): Promise<void>
  /** Waits for so many completions more. */
  progress(completions: number): Promise<void>
  publish(plan?: Partial<PublisherPlan>): void
  crew(members: number, plan?: Crewing): Promise<Crew>
  /** Notes that something was done to a process, or to all. */
  fault(pid?: number): void
  /** Where a member holds partitions. */
  holding(member: Program): number[]
  /** Kills the server's processes all at once, as a power cut would; it is started again at once. */
  killServer(): Promise<void>
  /** Ends the publishers that have no count of their own, and waits until the group has handled everything; that it does not is in the verdict. */
  settled(): Promise<void>
  verdict(options?: { letters?: readonly string[]; from?: number }): Promise<Verdict>
  close(): Promise<void>
}

export async function openStage(server: EmbeddedPostgres, folder: string, partitions: number): Promise<Stage> {
  mkdirSync(folder, { recursive: true })
  const database = `cbtest_${randomBytes(6).toString('hex')}`
  const urlAt = (port: number): string => Object.assign(new URL(server.url), { port: String(port), pathname: `/${database}` }).href
  const root = new pg.Pool({ connectionString: server.url, max: 1, application_name: 'chaos' })
  const pool = new pg.Pool({ connectionString: urlAt(server.port), max: 2, application_name: 'chaos' })
  root.on('error', () => undefined)
  pool.on('error', () => undefined)
  await root.query(`CREATE DATABASE ${database}`)
  await pool.query(
    `CREATE SCHEMA chaos; CREATE TABLE chaos.effects (id text); CREATE TABLE chaos.tries (id text); ${createInbox({ schema: 'chaos' }).schema()}`,
  )
  const broker = createBroker(postgresDriver({ client: pool }))
  await broker.createTopic(topic, { partitions })
  await broker.createGroup(topic, group)

  const read = readJournals(folder)
  const faults: Fault[] = []
  const stalls: string[] = []
  const publishers: { program: Program; endless: boolean }[] = []
  const crews: Crew[] = []
  const count = (e: Entry['e']): number => read().filter((entry) => entry.e === e).length
  const until = async (what: string, condition: () => unknown, guardMs = 60_000): Promise<void> => {
    await waitUntil(async () => Boolean(await condition()), { what, guardMs, everyMs: 25 })
  }
  const fault = (pid?: number): void => void faults.push({ at: monotonic(), pid })

  const crew = async (size: number, plan: Crewing = {}): Promise<Crew> => {
    const whole: MemberPlan = {
      url: urlAt(server.port),
      folder,
      topic,
      group,
      concurrency: 8,
      leaseMs: 1_500,
      statementMs: 5_000,
      flushMs: 200,
      handlerMs: 10,
      slowEvery: 0,
      slowMs: 0,
      failing: 0,
      fatal: 0,
      poison: '',
      ...plan,
    }
    const members = new Set<Program>()
    const leaving = new Set<Program>()
    let closed = false

    const start = (): Program => {
      const member = startProgram(`${here}/messaging-member.ts`, { args: [JSON.stringify(whole)] })
      members.add(member)
      void member.exited.then(({ code, signal }) => {
        members.delete(member)
        if (closed || leaving.has(member)) return
        // Killed by itself: by us it is noted already.
        if (signal === 'SIGKILL' && !faults.some(({ pid }) => pid === member.pid)) fault(member.pid)
        if (code !== null && code !== 0 && process.env['CHAOS_VERBOSE']) console.error(member.lines.slice(0, 12).join('\n'))
        start()
      })
      return member
    }
    const leave = async (member: Program): Promise<void> => {
      leaving.add(member)
      member.kill('SIGCONT')
      member.kill('SIGTERM')
      await member.exited
    }
    const one: Crew = {
      members,
      grow: async (to) => {
        const fresh: Program[] = []
        while (members.size < to) fresh.push(start())
        await Promise.all(fresh.map((member) => Promise.race([member.line(/^ready$/), member.exited])))
      },
      shrink: async (to) => {
        await Promise.all([...members].slice(to).map(leave))
      },
      kill: (member = pick([...members])) => {
        fault(member.pid)
        member.kill('SIGKILL')
      },
      close: async () => {
        closed = true
        await Promise.all([...members].map(leave))
      },
      end: async () => {
        closed = true
        await Promise.all([...members].map((member) => member.close()))
      },
    }
    crews.push(one)
    await one.grow(size)
    return one
  }

  return {
    server,
    url: urlAt(server.port),
    urlAt,
    broker,
    admin: { query: async <T>(sql: string, values: unknown[] = []) => (await pool.query(sql, values)).rows as T[] },
    entries: read,
    count,
    until,
    progress: (completions) => {
      const from = count('done')
      return until(`${completions} completions after the first ${from}`, () => count('done') >= from + completions)
    },
    publish: (plan = {}) => {
      const whole: PublisherPlan = {
        url: urlAt(server.port),
        folder,
        topic,
        count: 0,
        perSecond: 300,
        name: `k${publishers.length}-`,
        keys: 40,
        statementMs: 5_000,
        ...plan,
      }
      const program = startProgram(`${here}/messaging-publisher.ts`, { args: [JSON.stringify(whole)] })
      publishers.push({ program, endless: whole.count === 0 })
    },
    crew,
    fault,
    holding: ({ pid }) =>
      ownedBy(
        pid,
        monotonic(),
        read().filter((entry) => entry.e === 'assigned'),
      ),
    killServer: async () => {
      const { pid } = server
      const backends = execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' }).match(/\d+/g) ?? []
      fault()
      for (const each of [pid, ...backends.map(Number)])
        try {
          process.kill(each, 'SIGKILL')
        } catch {
          // It was faster.
        }
      await until('the server is back', () => server.pid !== pid)
    },
    settled: async () => {
      for (const { program, endless } of publishers) {
        if (endless) program.write('stop\n')
        const { code } = await program.exited
        if (code !== 0) throw new Error(`A publisher ended with ${code}: ${program.lines.join('\n')}`)
      }
      await until('the group to handle everything', async () => (await broker.lag(topic, group).catch(() => undefined))?.messages === 0, 90_000).catch(
        (error: Error) => void stalls.push(error.message),
      )
    },
    verdict: async ({ letters: expectedLetters = [], from } = {}) => {
      for (const one of crews) await one.close()
      const letters: { id: string; code: string }[] = []
      for (let after: string | undefined; ;) {
        const page = await broker.deadLetters(topic, group).list({ after })
        letters.push(...page.letters.map(({ id, error: { code } }) => ({ id, code })))
        if ((after = page.next) === undefined) break
      }
      const verdict = judge({ entries: read(), faults, letters, expectedLetters, ...(from === undefined ? {} : { from }) })
      return { ...verdict, failures: [...stalls, ...verdict.failures] }
    },
    close: async () => {
      await Promise.all(publishers.map(({ program }) => program.close()))
      await Promise.all(crews.map((one) => one.end()))
      await broker.close()
      await pool.end()
      await root.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`)
      await root.end()
    },
  }
}

export const pick = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)]!
