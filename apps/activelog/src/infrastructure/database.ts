import { hash } from 'node:crypto'
import type { Socket } from 'node:net'
import type { SqlClient, Transaction } from '@core-backend/internal/sql'
import { Client, type ClientBase, type ClientConfig, Pool, type PoolClient } from 'pg'

/** A pool with transactions whose statements are sent without waiting for each other's answers. */
export interface Database extends SqlClient {
  /**
   * BEGIN, `fn`, COMMIT on one connection. ROLLBACK when `fn` throws; rejects also when the server rolled back because `fn` went on after a statement had failed.
   * {@link CommitLostError} when nobody knows. A connection that broke leaves the pool.
   */
  transaction<T>(fn: (tx: Transaction) => Promise<T>): Promise<T>
  /** Ends what is still in use after a second, too. */
  close(): Promise<void>
}

export interface DatabaseOptions {
  /** Shown in `pg_stat_activity`. */
  name: string
  /** Connections at most. @default 16 */
  max?: number
  /** Patience with a connection that says nothing, ms: here for an answer, at the server for the next statement of a transaction, whose locks it gives free. @default 30_000 */
  silenceMs?: number
  /** Patience with a lock that somebody else holds, ms; then the statement fails with 55P03. @default as long as `silenceMs` */
  lockMs?: number
  /** Is handed whatever asks the server, to see how it ends. */
  watch?: <T>(statement: Promise<T>) => Promise<T>
}

/** Opens nothing before the first query. Survives the server's restarts: what fails meanwhile fails alone. */
export function openDatabase(url: string, { name, max = 16, silenceMs = 30_000, lockMs = 0, watch = (statement) => statement }: DatabaseOptions): Database {
  const patience = { connectionTimeoutMillis: 5_000, query_timeout: silenceMs }
  const clients = new Set<Client>()
  /** Those that still connect are known by nothing else. */
  class Kept extends Client {
    constructor(given?: ClientConfig) {
      super(given)
      clients.add(this)
      this.once('end', () => clients.delete(this))
    }
  }
  const config = { connectionString: url, application_name: name, max, pipeline: true, keepAlive: true, Client: Kept, ...patience }
  const pool = new Pool(config)
  // Without these, a connection that the server cuts would end the process: the first for idle ones, the second for those in use.
  pool.on('error', () => {})
  pool.on('connect', (client) => {
    client.on('error', () => {})
    // As a statement: poolers refuse it among the startup parameters. One that fails has lost its connection, which the next statement tells.
    client.query(`SET idle_in_transaction_session_timeout = ${silenceMs}; SET lock_timeout = ${lockMs}`).catch(() => {})
  })
  /** A server that has gone silent would keep every connection that says goodbye to it, and those in use for as long as its users wait. */
  async function close(): Promise<void> {
    const late = setTimeout(() => clients.forEach(cutOff), partingMs)
    await pool.end()
    await Promise.all(Array.from(clients, (client) => new Promise((resolve) => client.once('end', resolve))))
    clearTimeout(late)
  }
  let closing: Promise<void> | undefined
  return {
    query: (text, values) => watch(pool.query(prepared(text, values))),
    transaction: (fn) => transaction(pool, watch, fn),
    close: () => (closing ??= close()),
  }
}

async function transaction<T>(pool: Pool, watch: NonNullable<DatabaseOptions['watch']>, fn: (tx: Transaction) => Promise<T>): Promise<T> {
  const client = await watch(pool.connect())
  let broken: Error | undefined
  let over = false
  /** Statements that were sent behind it fail because of it, and may be heard of first. */
  let cause: unknown
  try {
    sendTogether(client)
    const begun = watch(client.query('BEGIN'))
    begun.catch(() => {}) // awaited below, after the first statements went out behind it
    const result = await fn({
      query: async (text, values) => {
        if (over) throw new TypeError('The transaction is over, and a statement came after its end: is an await missing?')
        sendTogether(client)
        return watch(client.query(prepared(text, values))).catch((error: unknown) => {
          cause ??= error
          throw error
        })
      },
    })
    over = true
    await begun
    const { command } = await watch(client.query('COMMIT')).catch((error: unknown) => {
      throw isUnavailable(error) ? new CommitLostError(error) : error
    })
    if (command !== 'COMMIT') throw new Error(`A statement of the transaction failed, so COMMIT was a ${command}`)
    return result
  } catch (error) {
    over = true
    await client.query('ROLLBACK').catch((failure: Error) => (broken = failure))
    throw (error as { code?: unknown } | null)?.code === '25P02' ? (cause ?? error) : error
  } finally {
    client.release(broken)
  }
}

/** `pg` keeps its socket there; its types do not say so. */
const socketOf = (client: ClientBase): Socket => (client as unknown as { connection: { stream: Socket } }).connection.stream

const cutOff = (client: ClientBase): void => void socketOf(client).destroy()

/** How long a server may take to end a connection. */
const partingMs = 1_000

/** Ends a connection, also to a server that says nothing any more. */
export async function part(client: Client): Promise<void> {
  const late = setTimeout(() => cutOff(client), partingMs)
  await client.end().catch(() => {})
  clearTimeout(late)
}

/** What is sent from here until the turn ends goes out in one write: a packet instead of one for each statement. */
function sendTogether(client: PoolClient): void {
  const stream = socketOf(client)
  if (stream.writableCorked > 0) return
  stream.cork()
  process.nextTick(() => stream.uncork())
}

const names = new Map<string, string>()

/**
 * A statement with parameters is parsed once a connection. The few that are different each time stay unnamed. A name is made of its text alone: should
 * connections ever share a session, through a pooler, it still means the same statement to all of them.
 */
function prepared(text: string, values: unknown[] | undefined): { text: string; values?: unknown[]; name?: string } {
  if (!values?.length) return { text }
  let name = names.get(text)
  if (name === undefined && names.size < 500) names.set(text, (name = hash('sha256', text, 'base64url')))
  return name === undefined ? { text, values } : { text, values, name }
}

/** The database cannot be used. The message is one line without a password. */
export class DatabaseError extends Error {
  override readonly name = 'DatabaseError'
  readonly code = 'ERR_ACTIVELOG_DATABASE'
  readonly retryable = true
}

/** COMMIT was sent and no answer came: the transaction may be done. */
export class CommitLostError extends Error {
  override readonly name = 'CommitLostError'
  readonly code = 'ERR_ACTIVELOG_COMMIT_LOST'
  /** By whoever finds out what was done: handlers by their inbox, requests by their key. */
  readonly retryable = true
  constructor(cause: unknown) {
    super('No answer came to COMMIT', { cause })
  }
}

/** A quiet pooler shows itself in the third round at the latest, a busy one in nearly every one of them. */
const rounds = 8

/** Resolves when the server answers, is new enough and gives each connection a session of its own. Throws {@link DatabaseError}, at the latest after `patienceMs`. */
export async function reachable(url: string, { patienceMs = 5_000, signal }: { patienceMs?: number; signal?: AbortSignal | undefined } = {}): Promise<void> {
  signal?.throwIfAborted()
  const clients = [1, 2].map(() => new Client({ connectionString: url }))
  const giveUp = (): void => clients.forEach(cutOff)
  let late = false
  const patience = setTimeout(() => {
    late = true
    giveUp()
  }, patienceMs)
  signal?.addEventListener('abort', giveUp)
  try {
    for (const client of clients) {
      client.on('error', () => {})
      await client.connect()
    }
    const { rows } = await clients[0]!.query<{ version: string }>("SELECT current_setting('server_version_num') AS version")
    const version = Math.floor(Number(rows[0]!.version) / 10_000)
    if (version < 15) throw new Error(`it is PostgreSQL ${version}, 15 or later is needed`)
    const sessions = new Map<Client, number>()
    for (let round = 0; round < rounds; round++)
      for (const [client, pid] of await sessionsOf(round % 2 ? clients.toReversed() : clients, clients)) {
        if ((sessions.get(client) ?? pid) !== pid)
          throw new Error(
            'a pooler in transaction mode stands before it, where prepared statements and LISTEN get lost: connect to the server, or use session mode',
          )
        sessions.set(client, pid)
      }
  } catch (cause) {
    const { message, code } = cause as { message: string; code?: string }
    throw new DatabaseError(`Cannot use the database ${withoutPassword(url)}: ${late ? `it did not answer within ${patienceMs} ms` : message || code}`, {
      cause,
    })
  } finally {
    clearTimeout(patience)
    signal?.removeEventListener('abort', giveUp)
    await Promise.all(clients.map(part))
  }
}

/**
 * The server's session of each connection, while all are in a transaction. A pooler in transaction mode hands sessions out anew for each: the last one given
 * back first, or the first one. Beginning in one order and in the other makes both give a connection another one's.
 */
async function sessionsOf(beginning: readonly Client[], ending: readonly Client[]): Promise<Map<Client, number>> {
  const sessions = new Map<Client, number>()
  for (const client of beginning) {
    await client.query('BEGIN')
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')
    sessions.set(client, rows[0]!.pid)
  }
  for (const client of ending) await client.query('COMMIT')
  return sessions
}

const withoutPassword = (url: string): string => {
  const { protocol, host, pathname } = new URL(url)
  return `${protocol}//${host}${pathname}`
}

/** Somebody else holds what it needed for longer than `lockMs`; an error of the broker has that as its cause. */
export function isLocked(error: unknown): boolean {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: unknown }
  return code === '55P03' || (cause !== undefined && isLocked(cause))
}

/** The server gave up this transaction alone, at a deadlock, a timeout or somebody's word, and nothing of it is done. */
export const isGivenUp = (error: unknown): boolean => /^(40001|40P01|57014|25P0)/.test(String((error as { code?: unknown } | null)?.code))

/** All connections of the pool are in use, and none came free in time: says nothing about the server. */
export const isBusy = (error: unknown): boolean => (error as { message?: unknown } | null)?.message === 'timeout exceeded when trying to connect'

/** The server cannot be reached, is starting or stopping, lets nobody in or takes no writes: worth another try soon. */
export function isUnavailable(error: unknown): boolean {
  const { code = '', message = '', syscall } = error as { code?: string; message?: string; syscall?: string }
  return (
    syscall !== undefined ||
    // 28 and 3D000: whoever connects, while a password is changed or a database restored.
    /^(08|28|3D000|53|57P)/.test(code) ||
    // A standby, as after a failover; a database that lets nobody in.
    code === '25006' ||
    (code === '55000' && message.includes('not currently accepting connections')) ||
    /^(ECONN|EPIPE|ETIMEDOUT|EHOST|ENET|ENOTFOUND|EAI_)/.test(code) ||
    /^(Connection terminated|Client has encountered a connection error|Client was closed|Query read timeout|Cannot use a pool after)/.test(message)
  )
}
