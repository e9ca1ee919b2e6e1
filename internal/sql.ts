import { having } from './options.ts'

/** Any SQL client with PostgreSQL's `$1` parameters: `pg.Pool`, `pg.Client`, PGlite. */
export interface SqlClient {
  query(text: string, values?: unknown[]): Promise<{ rows: unknown[] }>
}

/**
 * A client on which BEGIN was run. The two absent properties make a `pg.Pool` or a bare PGlite a compile error here:
 * each statement of theirs would be a transaction of its own.
 */
export type Transaction = SqlClient & { totalCount?: never; waitReady?: never }

/** Throws `TypeError` when given a pool, a bare PGlite or no client at all, for callers whose types did not tell. */
export function assertTransaction(tx: SqlClient): void {
  having('query')(tx, 'The transaction')
  const client = tx as { totalCount?: unknown; waitReady?: unknown }
  if (typeof client.totalCount === 'number' || client.waitReady !== undefined) throw new TypeError('Not a transaction: pass the client on which you ran BEGIN')
}
