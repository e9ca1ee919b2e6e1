import type { Pool } from 'pg'
import type { Transaction } from '../src/index.ts'

export async function transaction<T>(pool: Pool, fn: (tx: Transaction) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    const result = await fn(client)
    await client.query('COMMIT')
    return result
  } finally {
    client.release()
  }
}
