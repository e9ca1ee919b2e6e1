import { randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import { Client, escapeIdentifier, Pool } from 'pg'
import { startEmbeddedPostgres } from '../../apps/activelog/src/infrastructure/embedded-postgres.ts'
import type { SqlClient, Transaction } from '../../internal/sql.ts'
import { opened } from './leaks.ts'
import { noteCovered, serviceUrl } from './services.ts'

/** Which PostgreSQL: npm's 18, the machine's server, one in this process with one connection, pgbouncer in transaction mode. */
export type Flavour = 'pg18' | 'pg15' | 'pglite' | 'pgbouncer'

/** A database of one's own, dropped at `close()`. */
export interface TestDatabase {
  readonly flavour: Flavour
  readonly client: SqlClient
  /** The same client, where it is a pool. */
  readonly pool: Pool | undefined
  /** Absent for PGlite. */
  readonly url: string | undefined
  transaction<T>(fn: (tx: Transaction) => Promise<T>): Promise<T>
  /** Calls `fn` with each payload until the returned function is called. Absent where LISTEN cannot work (pgbouncer). */
  readonly listen: ((channel: string, fn: (payload: string) => void) => Promise<() => Promise<void>>) | undefined
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface OpenDatabaseOptions {
  /** Connections of the pool. @default 10 */
  max?: number
}

/** Durability off: these clusters live for one run of functional tests. */
export const functionalSettings: Record<string, string> = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', max_connections: '300' }

/** Creates `cbtest_<random>` on the server of that flavour and connects to it. */
export async function openDatabase(flavour: Flavour, { max = 10 }: OpenDatabaseOptions = {}): Promise<TestDatabase> {
  if (flavour === 'pglite') return openPGlite()
  const server = flavour === 'pg18' ? await embeddedServer() : serviceUrl(flavour === 'pg15' ? 'postgres' : 'pgbouncer')
  const name = `cbtest_${randomBytes(6).toString('hex')}`
  const version = await administer(server, `CREATE DATABASE ${name}`)
  if (flavour === 'pg18') noteCovered('pg18', version)
  const url = Object.assign(new URL(server), { pathname: `/${name}` }).href
  const pool = new Pool({ connectionString: url, max })
  pool.on('error', () => {}) // an idle connection that a test cut or whose server stopped
  const closed = opened(`database ${name}`)
  let closing: Promise<void> | undefined
  const close = (): Promise<void> =>
    (closing ??= (async () => {
      if (!pool.ended) await pool.end()
      await administer(server, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
      closed()
    })())
  return {
    flavour,
    client: pool,
    pool,
    url,
    transaction: (fn) => inTransaction(pool, fn),
    listen: flavour === 'pgbouncer' ? undefined : (channel, fn) => listen(url, channel, fn),
    close,
    [Symbol.asyncDispose]: close,
  }
}

let template: Promise<File | Blob> | undefined

async function openPGlite(): Promise<TestDatabase> {
  // initdb takes a second or two, a copy of what it made a quarter of one.
  template ??= PGlite.create().then(async (fresh) => {
    const files = await fresh.dumpDataDir('none')
    await fresh.close()
    return files
  })
  const lite = await PGlite.create({ loadDataDir: await template })
  const { rows } = await lite.query<{ server_version: string }>('SHOW server_version')
  noteCovered('pglite', rows[0]!.server_version)
  const closed = opened('PGlite')
  const close = async (): Promise<void> => {
    if (!lite.closed) await lite.close()
    closed()
  }
  return {
    flavour: 'pglite',
    client: lite,
    pool: undefined,
    url: undefined,
    transaction: (fn) => lite.transaction((tx) => fn(tx as Transaction)),
    listen: (channel, fn) => lite.listen(channel, fn),
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** BEGIN, `fn`, COMMIT on one connection of the pool; ROLLBACK when `fn` throws, and a broken connection leaves the pool. */
export async function inTransaction<T>(pool: Pool, fn: (tx: Transaction) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let broken: Error | undefined
  try {
    await client.query('BEGIN')
    const result = await fn(client)
    const { command } = await client.query('COMMIT')
    if (command !== 'COMMIT') throw new Error(`A statement of the transaction failed, so COMMIT was a ${command}`)
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch((rollback: Error) => (broken = rollback))
    throw error
  } finally {
    client.release(broken)
  }
}

async function listen(url: string, channel: string, fn: (payload: string) => void): Promise<() => Promise<void>> {
  const client = new Client({ connectionString: url })
  client.on('error', () => {})
  client.on('notification', ({ payload }) => fn(payload ?? ''))
  await client.connect()
  await client.query(`LISTEN ${escapeIdentifier(channel)}`)
  const closed = opened(`listener of ${channel}`)
  return () => client.end().finally(closed)
}

/** Runs a statement; resolves to the server's version. */
async function administer(server: string, sql: string): Promise<string> {
  const client = new Client({ connectionString: server })
  client.on('error', () => {})
  await client.connect()
  try {
    await client.query(sql)
    const { rows } = await client.query<{ server_version: string }>('SHOW server_version')
    return rows[0]!.server_version.split(' ')[0]!
  } finally {
    await client.end()
  }
}

let embedded: Promise<string> | undefined

/** The address of PostgreSQL 18: the run's (`TEST_PG18_URL`), else one that this process starts and takes down with itself. */
export function embeddedServer(): Promise<string> {
  return (embedded ??= process.env['TEST_PG18_URL'] ? Promise.resolve(process.env['TEST_PG18_URL']) : startOwn())
}

async function startOwn(): Promise<string> {
  const dataDir = await mkdtemp(join(tmpdir(), 'cbtest-pg18-'))
  const server = await startEmbeddedPostgres({ dataDir, settings: functionalSettings })
  server.unref()
  const die = (): void => process.exit(130)
  const onExit = (): void => {
    process.kill(server.pid, 'SIGKILL')
    rmSync(dataDir, { recursive: true, force: true })
  }
  process.once('SIGINT', die).once('SIGTERM', die).once('exit', onExit)
  process.once('beforeExit', () => {
    process.off('SIGINT', die).off('SIGTERM', die).off('exit', onExit)
    void server.close().then(() => rm(dataDir, { recursive: true, force: true }))
  })
  return server.url
}
