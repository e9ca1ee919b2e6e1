import { having } from '#internal/options'
import type { SqlClient } from '#internal/sql'
import type { RunTransaction } from './inbox.ts'

/** A client on loan. `command` says what the server did: it answers COMMIT by ROLLBACK after a statement that failed. */
export interface PoolClient {
  query(text: string, values?: unknown[]): Promise<{ rows: unknown[]; command: string }>
  on?(event: 'error', listener: (error: Error) => void): unknown
  off?(event: 'error', listener: (error: Error) => void): unknown
  release(broken?: Error): void
}

/** What lends clients: a `pg.Pool`. */
export interface ClientPool<C extends PoolClient = PoolClient> {
  connect(): Promise<C>
}

const checked = new WeakSet<RunTransaction>()
/** Whether its transactions look at what COMMIT answers. */
export const checksCommit = (transaction: RunTransaction): boolean => checked.has(transaction)

/**
 * Transactions on a `pg.Pool`: BEGIN, `fn`, COMMIT on one client, ROLLBACK when `fn` throws. Rejects also when the server answers COMMIT by ROLLBACK, as it does after a statement that
 * failed and whose error `fn` hid. A client whose connection broke leaves the pool, and ends no process while it is on loan. A statement that comes after the end, for want of an `await`, is refused: it would run in
 * somebody else's transaction, or in none. Throws `TypeError` for what is not a pool.
 */
export function poolTransaction<C extends PoolClient>(pool: ClientPool<C>): <T>(fn: (tx: C) => Promise<T>) => Promise<T> {
  having('connect')(pool, 'poolTransaction: pool')
  const transaction = async <T>(fn: (tx: C) => Promise<T>): Promise<T> => {
    const client = await pool.connect()
    if (typeof (client as C | undefined)?.release !== 'function')
      throw new TypeError('poolTransaction: what connect() gave cannot be released: give it a pg.Pool, not a pg.Client')
    let broken: Error | undefined
    let over = false
    // The pool listens to those that it keeps, and nobody to those on loan.
    const onError = (error: Error): void => void (broken = error)
    client.on?.('error', onError)
    const query = (...statement: Parameters<SqlClient['query']>): ReturnType<PoolClient['query']> =>
      over ? Promise.reject(new TypeError('The transaction is over, and a statement came after its end: is an await missing?')) : client.query(...statement)
    try {
      await client.query('BEGIN')
      const result = await fn(Object.create(client, { query: { value: query } }) as C)
      over = true
      const { command } = await client.query('COMMIT')
      if (command === 'ROLLBACK') throw new Error(`A statement of the transaction had failed, so COMMIT was a ${command}`)
      return result
    } catch (error) {
      over = true
      await client.query('ROLLBACK').catch((failure: Error) => (broken = failure))
      throw error
    } finally {
      client.off?.('error', onError)
      client.release(broken)
    }
  }
  checked.add(transaction)
  return transaction
}
