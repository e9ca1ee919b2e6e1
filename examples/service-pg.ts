import { createEventProcessor, createWorker, defineEvent, eventPublisher } from '@core-backend/events'
import { createBroker } from '@core-backend/messaging'
import { postgresDriver } from '@core-backend/messaging/postgres'
import { createInbox, createOutbox, poolTransaction, relay } from '@core-backend/outbox'
import { z } from 'zod'
import { openDatabase } from '../tests/kit/postgres.ts'

const OrderPlaced = defineEvent('order.placed', {
  version: 1,
  schema: z.object({ id: z.string(), total: z.number() }),
  topic: 'orders',
  aggregateId: (order) => order.id,
})

// In your service: const pool = new Pool({ connectionString: process.env.DATABASE_URL }), from pg. The broker has another one, so that a crowd of requests cannot hold up its leases.
const database = await openDatabase('pg18', { max: 10 })
const [pool, brokerPool] = [database.pool!, database.pool!]
const transaction = poolTransaction(pool)
const outbox = createOutbox()
const inbox = createInbox()
await pool.query('CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, total numeric)')
await pool.query('CREATE TABLE IF NOT EXISTS revenue (total numeric)')
await pool.query(outbox.schema())
await pool.query(inbox.schema())

const broker = createBroker(postgresDriver({ client: brokerPool }))
await broker.createTopic('orders', { groups: ['revenue'] })

const processor = createEventProcessor({ inbox: inbox.runner(transaction) }).on(
  OrderPlaced,
  async (event, { tx }) => {
    await tx.query('INSERT INTO revenue VALUES ($1)', [event.data.total])
    console.log('earned', event.data.total)
  },
  { name: 'revenue' },
)
const moving = relay({ db: pool, outbox, publisher: broker, hooks: { onError: (error, during) => console.error(during, error) } })
const worker = createWorker({ subscriber: broker, processor, group: 'revenue' })
await moving.start()
await worker.start()

// What is begun last ends first: requests, then what moves and handles, then the broker, then the connections. What was not done goes on at the next start.
async function stop(): Promise<void> {
  await worker.stop()
  await moving.close()
  await broker.close()
  await database.close() // await pool.end()
  console.log('stopped')
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop())

await transaction(async (tx) => {
  await tx.query('INSERT INTO orders VALUES ($1, $2)', ['o1', 42])
  await eventPublisher(outbox.publisher(tx)).publish(OrderPlaced({ id: 'o1', total: 42 }))
})
moving.wake()

while ((await pool.query('SELECT FROM revenue')).rowCount === 0) await new Promise((resolve) => setTimeout(resolve, 20))
await stop()

// Prints:
// earned 42
// stopped
