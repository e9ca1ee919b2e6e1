import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { Client } from 'pg'

export const tenants = ['acme', 'globex', 'initech'] as const

/** How a service is started: Node's arguments and what else is in its environment. */
export interface Service {
  readonly args: readonly string[]
  readonly env?: Readonly<Record<string, string>>
}

/** A service at work on a fresh database. */
export interface Running {
  readonly url: string
  /** To look into its tables. */
  readonly db: Client
  /** CPU that the service and the database server have used since they were started, ms; 0 where /proc is missing. */
  cpu(): { service: number; database: number }
  /** Ends the process and drops the database. */
  close(): Promise<void>
}

export function setting(name: string): string {
  const value = process.env[name]
  if (value === undefined) throw new Error(`${name} is not set: run this through \`npm run bench\``)
  return value
}

export async function start({ args, env = {} }: Service): Promise<Running> {
  const admin = new Client({ connectionString: setting('BENCH_DATABASE_URL') })
  await admin.connect()
  const name = `bench_${process.pid}_${Date.now()}`
  await admin.query(`CREATE DATABASE ${name}`)
  await admin.query('CHECKPOINT')
  const url = Object.assign(new URL(setting('BENCH_DATABASE_URL')), { pathname: `/${name}` }).href

  const { PATH = '', HOME = '' } = process.env
  const own = { PATH, HOME, NODE_ENV: 'production', DATABASE_URL: url, PORT: '0', TENANTS: tenants.join(','), LOG_LEVEL: 'info', ROLE: 'all' }
  const child = spawn(process.execPath, args, { env: { ...own, ...env }, stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  const listening = await ready(child)
  const db = new Client({ connectionString: url })
  await db.connect()
  return {
    url: listening,
    db,
    cpu: () => ({ service: cpuOf(child.pid!), database: treeCpu(Number(setting('BENCH_DATABASE_PID'))) }),
    async close() {
      await db.end()
      child.kill('SIGKILL')
      const [code, signal] = (await ended) as [number | null, string | null]
      if (signal !== 'SIGKILL') process.stderr.write(`The service had ended by itself with ${code ?? signal}\n`)
      await admin.query(`DROP DATABASE ${name} WITH (FORCE)`)
      await admin.end()
    },
  }
}

/** The address in the line that says where it listens. */
function ready(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let out = ''
    child.stdout!.on('data', (chunk: Buffer) => {
      out = (out + chunk.toString()).slice(-10_000)
      const url = / listens on (http:\/\/[^\s,]+)/.exec(out)?.[1]
      if (url !== undefined) resolve(url)
    })
    child.once('error', reject)
    child.once('exit', (code, signal) => reject(new Error(`The service ended with ${code ?? signal}:\n${out}`)))
  })
}

const tickMs = 10 // USER_HZ is 100 on every Linux that Node runs on

/** Of the process itself and of its children that ended. */
function cpuOf(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
    return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) * tickMs
  } catch {
    return 0
  }
}

/** Of a server and the processes that it forked. */
function treeCpu(pid: number): number {
  try {
    const children = readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .filter((name) => parentOf(name) === pid)
    return children.reduce((sum, child) => sum + cpuOf(Number(child)), cpuOf(pid))
  } catch {
    return 0
  }
}

function parentOf(pid: string): number {
  try {
    return Number(
      readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ')[1],
    )
  } catch {
    return 0
  }
}
