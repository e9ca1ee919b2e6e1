import { Pool, type PoolClient } from 'pg'

export type Query = (text: string, values?: unknown[]) => Promise<{ rows: unknown[] }>

export interface Database {
  readonly query: Query
  /** BEGIN, `fn`, COMMIT on one connection. */
  transaction<T>(fn: (query: Query) => Promise<T>): Promise<T>
}

/** `pipeline`: statements go out without waiting for the answers before them, BEGIN with the first. */
export function openDatabase(connectionString: string, { max, pipeline }: { max: number; pipeline: boolean }): Database {
  const pool = new Pool({ connectionString, max, pipeline })
  pool.on('error', () => {})

  async function transaction<T>(fn: (query: Query) => Promise<T>): Promise<T> {
    const client = await pool.connect()
    let broken: Error | undefined
    try {
      const begun = client.query('BEGIN')
      begun.catch(() => {})
      if (!pipeline) await begun
      const result = await fn(named(client))
      await begun
      await client.query('COMMIT')
      return result
    } catch (error) {
      await client.query('ROLLBACK').catch((failure: Error) => (broken = failure))
      throw error
    } finally {
      client.release(broken)
    }
  }

  return { query: named(pool), transaction }
}

const names = new Map<string, string>()

/** Statements with parameters are prepared once a connection. */
const named =
  (client: Pool | PoolClient): Query =>
  (text, values) => {
    if (values === undefined) return client.query(text)
    let name = names.get(text)
    if (name === undefined) names.set(text, (name = `t${names.size}`))
    return client.query({ name, text, values })
  }
