import { createInbox, createOutbox, poolTransaction } from '@core-backend/outbox'
import { openDatabase } from '../tests/kit/postgres.ts'

const db = await openDatabase('pg18')
const pool = db.pool!
const outbox = createOutbox()
const inbox = createInbox()
await pool.query(outbox.schema())
await pool.query(inbox.schema())

const transaction = poolTransaction(pool)
await transaction((tx) => outbox.add(tx, { topic: 'accounts', key: 'ada', value: Buffer.from('opened') }))
console.log((await outbox.counts(pool)).pending, 'waits for the relay')

const runner = inbox.runner(transaction)
for (let delivery = 1; delivery <= 2; delivery++) console.log(await runner.run({ id: 'm1' }, 'welcome', async () => 'sent'))

const hiding = transaction((tx) => tx.query('SELECT 1 / 0').catch(() => 'hidden'))
await hiding.catch((error: Error) => console.log(error.message))
await db.close()

// Prints:
// 1 waits for the relay
// { duplicate: false, value: 'sent' }
// { duplicate: true }
// A statement of the transaction had failed, so COMMIT was a ROLLBACK
