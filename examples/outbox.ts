// #region readme
import { PGlite } from '@electric-sql/pglite'
import { createInbox, createOutbox, type PublishedMessage, relay } from '@core-backend/outbox'

const db = await PGlite.create()
const outbox = createOutbox()
const inbox = createInbox()
await db.exec('CREATE TABLE account (id text PRIMARY KEY, balance integer); CREATE TABLE mail (account text, text text)')
await db.query(outbox.schema())
await db.query(inbox.schema())

// The change and the message that tells of it commit together, or not at all.
const open = (id: string, balance: number) =>
  db.transaction(async (tx) => {
    await tx.query('INSERT INTO account VALUES ($1, $2)', [id, balance])
    await outbox.add(tx, { topic: 'accounts', key: id, value: Buffer.from(JSON.stringify({ id, balance })) })
    if (balance < 0) throw new RangeError(`No account begins with ${balance}`)
  })

// Whoever hears a message twice, acts once: the effect and the record of it commit together.
const handle = (message: PublishedMessage) =>
  db.transaction((tx) =>
    inbox.once(tx, message, 'welcome', async () => {
      await tx.query('INSERT INTO mail VALUES ($1, $2)', [message.key, 'Welcome'])
    }),
  )

// The relay publishes what was committed. This broker delivers everything twice.
const broker = {
  publish: async (message: PublishedMessage) => {
    for (let delivery = 1; delivery <= 2; delivery++) console.log(message.key, await handle(message))
  },
}
const moving = relay({ db, outbox, publisher: broker })
await moving.start()

await open('ada', 10)
await open('bob', -1).catch((error: Error) => console.log(error.message))
moving.wake() // Without it the relay looks within pollMs (100).

while ((await outbox.counts(db)).pending > 0) await new Promise((resolve) => setTimeout(resolve, 10))
console.log((await db.query('SELECT account FROM mail')).rows)
await moving.close()
await db.close()
// #endregion

// Prints:
// No account begins with -1
// ada { duplicate: false, value: undefined }
// ada { duplicate: true }
// [ { account: 'ada' } ]
