// The whole service in this process, on a database of its own, for tests.
import type { TestContext } from 'node:test'
import type { Transaction } from '@core-backend/internal/sql'
import { openDatabase, type TestDatabase } from '@core-backend/testkit/postgres'
import { fromEnv } from './infrastructure/settings.ts'
import type { Activelog, StartOptions } from './interfaces/command.ts'
import { startActivelog } from './main.ts'

export interface Answer {
  status: number
  headers: Headers
  /** The body as JSON, if it is. */
  json: Record<string, unknown>
}

export interface Service extends Activelog {
  readonly url: string
  readonly database: TestDatabase
  /** One request as a tenant; a string goes out as it is. */
  ask(method: string, path: string, options?: { tenant?: string; body?: unknown; headers?: Record<string, string> }): Promise<Answer>
}

export const draft = { userId: 1, type: 'running', title: 'Morning run', durationMinutes: 32, distanceKm: 6.1, activityDate: '2026-01-15' }

/** Started, and closed at the end of the test or suite. `through` may put something between service and database; warnings and errors go to `onTrouble`. */
export async function startService(
  t: TestContext,
  through: (url: string) => string | Promise<string> = (url) => url,
  env: Record<string, string> = {},
  onTrouble: (fields: object, text: string) => void = () => {},
  options: Omit<StartOptions, 'logger'> = {},
): Promise<Service> {
  const database = await openDatabase('pg18')
  const logger = { debug: () => {}, info: () => {}, warn: onTrouble, error: onTrouble }
  let activelog: Activelog | undefined
  // Hooks run in the order of their registration: one, so that the service does not lose its database while it closes.
  t.after(async () => {
    await activelog?.close()
    await database.close()
  })
  activelog = await startActivelog(fromEnv({ DATABASE_URL: await through(database.url!), PORT: '0', TENANTS: 'acme,globex', ...env }), {
    logger,
    graceMs: 0,
    ...options,
  })
  const url = activelog.url!
  return {
    ...activelog,
    url,
    database,
    async ask(method, path, { tenant = 'acme', body, headers = {} } = {}) {
      const response = await fetch(url + path, {
        method,
        headers: { ...(tenant !== '' && { 'x-tenant-id': tenant }), 'content-type': 'application/json', ...headers },
        ...(body !== undefined && { body: typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body) }),
      })
      const text = await response.text()
      const json = /json/.test(response.headers.get('content-type') ?? '') ? (JSON.parse(text) as Record<string, unknown>) : {}
      return { status: response.status, headers: response.headers, json }
    },
  }
}

/** Locks a table; gives what frees it. */
export async function lockTable(
  { transaction }: { transaction(fn: (tx: Transaction) => Promise<void>): Promise<void> },
  table: string,
): Promise<() => Promise<void>> {
  const [locked, unlock] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const locking = transaction(async (tx) => {
    await tx.query(`LOCK TABLE ${table}`)
    locked.resolve()
    await unlock.promise
  })
  await Promise.race([locked.promise, locking])
  return () => {
    unlock.resolve()
    return locking
  }
}

/** Everything that clients and events could have left behind. */
export async function contents({ database }: Service): Promise<Record<string, number>> {
  const tables = ['acme', 'globex'].flatMap((tenant) =>
    ['activities', 'idempotency_keys', 'events', 'day_sums', 'badges', 'audit'].map((table) => `tenant_${tenant}.${table}`),
  )
  const sql = [...tables, 'activelog.outbox', 'activelog.inbox']
    .map((table) => `SELECT '${table}' AS name, count(*)::integer AS n FROM ${table}`)
    .join(' UNION ALL ')
  const { rows } = await database.client.query(sql)
  return Object.fromEntries((rows as { name: string; n: number }[]).filter(({ n }) => n > 0).map(({ name, n }) => [name, n]))
}
