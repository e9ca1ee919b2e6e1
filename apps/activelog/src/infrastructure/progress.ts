import type { Outbox } from '@core-backend/outbox'
import type { Broker } from '@core-backend/messaging'
import type { Database } from './database.ts'
import { schemaOf, sharedSchema } from './schema.ts'

/** How far events are on their way. */
export interface Progress {
  /** Committed: each version of an activity is one event. */
  readonly posted: number
  /** Of these, with the broker. */
  readonly published: number
  /** All of their handlers are done. */
  readonly handled: number
  readonly deadLettered: number
  /** In the outbox, and with the broker but not settled: counted there, not worked out from the others. */
  readonly pending: number
}

export interface ProgressOptions {
  db: Database
  outbox: Outbox
  broker: Broker
  topic: string
  group: string
  tenants: readonly string[]
  /** Of each event. */
  handlers: number
}

/** Counts in the tables; of the activities with `sinceId` or a later id. Dead letters and what is pending are all that there are. */
export async function countProgress({ db, outbox, broker, topic, group, tenants, handlers }: ProgressOptions, sinceId: string): Promise<Progress> {
  const versions = tenants.map((tenant) => `(SELECT coalesce(sum(version), 0) FROM ${schemaOf(tenant)}.activities WHERE id >= $1::text::uuid)`)
  // The handled ones are counted first: nothing can then have been handled that was not posted.
  const { rows: done } = await db.query(
    `SELECT count(*)::integer AS n FROM (SELECT FROM ${sharedSchema}.inbox WHERE message_id >= $1 GROUP BY message_id HAVING count(*) = $2) AS events`,
    [sinceId, handlers],
  )
  const { rows: committed } = await db.query(`SELECT (${versions.join(' + ')})::integer AS n`, [sinceId])
  const counts = await outbox.counts(db)
  const waiting = counts.pending + counts.delayed + counts.parked + counts.blocked
  const [{ messages }, deadLettered] = await Promise.all([broker.lag(topic, group), broker.deadLetters(topic, group).count()])
  const posted = numberOf(committed)
  return { posted, published: Math.max(0, posted - waiting), handled: numberOf(done), deadLettered, pending: waiting + messages }
}

const numberOf = (rows: unknown[]): number => (rows[0] as { n: number }).n
