// The PostgreSQL that suites measure on, and the loop that most of them share.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client, Pool } from 'pg'
import { startEmbeddedPostgres } from '../apps/activelog/src/infrastructure/embedded-postgres.ts'

/** A PostgreSQL 18 of its own with its default settings: fsync and synchronous_commit are on. `env` says where it is, its pid, and a folder that goes with it. */
export async function postgresWorld(): Promise<{ env: Record<string, string>; versions: string; close(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  const server = await startEmbeddedPostgres({ dataDir: join(folder, 'pg') })
  const client = new Client({ connectionString: server.url })
  await client.connect()
  const { rows } = await client.query<{ v: string }>(`SELECT current_setting('server_version') AS v`)
  await client.end()
  return {
    env: { BENCH_DATABASE_URL: server.url, BENCH_DATABASE_PID: String(server.pid), BENCH_FOLDER: folder },
    versions: `PostgreSQL ${rows[0]!.v} (fsync and synchronous_commit on, loopback)`,
    close: async () => {
      await server.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** A fresh database; the process ends soon after, so nothing is closed. */
export async function freshPool(max = 10): Promise<{ pool: Pool; url: string }> {
  const base = process.env['BENCH_DATABASE_URL']
  if (base === undefined) throw new Error('BENCH_DATABASE_URL is not set: run this through `npm run bench`')
  const name = `bench_${process.pid}_${Date.now()}`
  const admin = new Client({ connectionString: base })
  await admin.connect()
  await admin.query(`CREATE DATABASE ${name}`)
  await admin.query('CHECKPOINT')
  await admin.end()
  const url = Object.assign(new URL(base), { pathname: `/${name}` }).href
  return { pool: new Pool({ connectionString: url, max }), url }
}

/** `total` calls of `one`, `width` of them at a time. Operations a second. */
export async function window(total: number, width: number, one: (i: number) => Promise<unknown>): Promise<number> {
  let i = 0
  const started = performance.now()
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (i < total) await one(i++)
    }),
  )
  return (total / (performance.now() - started)) * 1_000
}
