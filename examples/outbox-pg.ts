import { createInbox } from '@core-backend/outbox'
import type { Pool, PoolClient } from 'pg'
import { openDatabase } from '../tests/kit/postgres.ts'

// #region readme
async function transaction<T>(pool: Pool, fn: (tx: PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let broken: Error | undefined
  try {
    await client.query('BEGIN')
    const result = await fn(client)
    const { command } = await client.query('COMMIT') // ROLLBACK when a statement had failed and fn hid it.
    if (command !== 'COMMIT') throw new Error(`COMMIT was a ${command}`)
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch((failure: Error) => (broken = failure))
    throw error
  } finally {
    client.release(broken)
  }
}
// #endregion

const db = await openDatabase('pg18')
const pool = db.pool!
const inbox = createInbox()
await pool.query(inbox.schema())
const runner = inbox.runner((fn) => transaction(pool, fn), { commitChecked: true })
for (let delivery = 1; delivery <= 2; delivery++) console.log(await runner.run({ id: 'm1' }, 'welcome', async () => 'sent'))
const hiding = transaction(pool, (tx) => tx.query('SELECT 1 / 0').catch(() => 'hidden'))
await hiding.catch((error: Error) => console.log(error.message))
await db.close()

// Prints:
// { duplicate: false, value: 'sent' }
// { duplicate: true }
// COMMIT was a ROLLBACK
