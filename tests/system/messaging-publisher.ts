// A process that publishes numbered messages of many keys, so many a second, and writes down what became of each. Its plan is its argument, as JSON.
// It ends after `count` messages, or at a line or the end of its standard input; so it does not outlive who started it.
import { setTimeout as sleep } from 'node:timers/promises'
import { createBroker, type MessagingError } from '@core-backend/messaging'
import { postgresDriver } from '@core-backend/messaging/postgres'
import pg from 'pg'
import { monotonic, openJournal } from './messaging-journal.ts'

export interface PublisherPlan {
  url: string
  folder: string
  topic: string
  /** 0: until it is told. */
  count: number
  perSecond: number
  /** Keys are `<name>0` to `<name>N`. */
  name: string
  keys: number
  statementMs: number
}

const plan = JSON.parse(process.argv[2]!) as PublisherPlan
const journal = openJournal(plan.folder)
const pool = new pg.Pool({ connectionString: plan.url })
pool.on('error', () => undefined)
const broker = createBroker(postgresDriver({ client: pool, statementMs: plan.statementMs }))

const seqs = new Map<string, number>()
const pending: Promise<void>[] = []

/** Does not wait for the one before: a key's messages are in the order of the calls, whatever happens to the connection. */
const publishOne = async (key: string): Promise<void> => {
  const seq = (seqs.get(key) ?? 0) + 1
  seqs.set(key, seq)
  const id = `${key}/${seq}`
  const sentAt = monotonic()
  try {
    await broker.publish({ id, topic: plan.topic, key, value: Buffer.from(id) })
    journal({ e: 'published', sentAt, id, key, seq, status: 'stored' })
  } catch (error) {
    const { code } = error as MessagingError
    journal({ e: 'published', sentAt, id, key, seq, status: code === 'ERR_MESSAGING_PUBLISH_UNKNOWN' ? 'unknown' : 'rejected', code })
  }
}

let told = false
for (const event of ['data', 'close']) process.stdin.once(event, () => (told = true))
const started = monotonic()
const over = (n: number): boolean => told || (plan.count > 0 && n >= plan.count)
for (let n = 0; !over(n);) {
  for (const due = ((monotonic() - started) / 1_000) * plan.perSecond; n < due && !over(n); n++)
    pending.push(publishOne(`${plan.name}${Math.floor(Math.random() * plan.keys)}`))
  await sleep(5)
}
process.stdin.destroy()
await Promise.all(pending)
await broker.close()
await pool.end()
journal({ e: 'closed' })
