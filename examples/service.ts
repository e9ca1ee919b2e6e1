import { createEventProcessor, createWorker, defineEvent, eventPublisher } from '@core-backend/events'
import { createBroker, memoryDriver } from '@core-backend/messaging'
import { createInbox, createOutbox, relay } from '@core-backend/outbox'
import { PGlite } from '@electric-sql/pglite'
import { z } from 'zod'

const OrderPlaced = defineEvent('order.placed', {
  version: 1,
  schema: z.object({ id: z.string(), total: z.number() }),
  topic: 'orders',
  aggregateId: (order) => order.id,
})

// The database has the tables of the outbox and the inbox beside yours. With pg: a Pool, and poolTransaction(pool).
const db = await PGlite.create()
const transaction = <T>(fn: (tx: Pick<PGlite, 'query'>) => Promise<T>): Promise<T> => db.transaction((tx) => fn(tx))
const outbox = createOutbox()
const inbox = createInbox()
await db.exec('CREATE TABLE orders (id text PRIMARY KEY, total numeric); CREATE TABLE revenue (total numeric); INSERT INTO revenue VALUES (0)')
await db.query(outbox.schema())
await db.query(inbox.schema())

// From the outbox to the broker. On servers: brokerFromEnv(), and postgres:// in BROKER_URL.
const broker = createBroker(memoryDriver())
await broker.createTopic('orders', { groups: ['revenue'] })
const moving = relay({ db, outbox, publisher: broker })
await moving.start()

// From the broker to handlers, whose effects happen once.
const processor = createEventProcessor({ inbox: inbox.runner(transaction) }).on(
  OrderPlaced,
  async (event, { tx }) => {
    await tx.query('UPDATE revenue SET total = total + $1', [event.data.total])
  },
  { name: 'revenue' },
)
const worker = createWorker({ subscriber: broker, processor, group: 'revenue' })
await worker.start()

// A use case: what it changes and the event that tells of it commit together.
const placeOrder = (id: string, total: number) =>
  transaction(async (tx) => {
    await tx.query('INSERT INTO orders VALUES ($1, $2)', [id, total])
    await eventPublisher(outbox.publisher(tx)).publish(OrderPlaced({ id, total }))
  })
await placeOrder('o1', 30)
await placeOrder('o2', 12)
await placeOrder('o2', 99).catch(() => console.log('o2 was placed already'))
moving.wake()

const counts = async (): Promise<number> => (await outbox.counts(db)).pending + (await broker.lag('orders', 'revenue')).messages
while ((await counts()) > 0) await new Promise((resolve) => setTimeout(resolve, 20))
console.log((await db.query('SELECT total::int FROM revenue')).rows)
await moving.close()
await worker.stop()
await broker.close()
await db.close()

// Prints:
// o2 was placed already
// [ { total: 42 } ]
