import type { Outbox } from '@core-backend/outbox'
import type { Broker } from '@core-backend/messaging'
import type { Database } from './database.ts'
import { schemaOf, sharedSchema } from './schema.ts'

/** How far events are on their way. */
export interface Progress {
  /** Committed. */
  readonly posted: number
  /** All of their handlers are done. */
  readonly handled: number
  readonly deadLettered: number
  /** In the outbox. */
  readonly unpublished: number
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

/** Counts in the tables; what is posted and handled of the events with `sinceId` or a later id, of everything else all that there is. */
export async function countProgress({ db, outbox, broker, topic, group, tenants, handlers }: ProgressOptions, sinceId: string): Promise<Progress> {
  const events = tenants.map((tenant) => `(SELECT count(*) FROM ${schemaOf(tenant)}.events WHERE id >= $1::text::uuid)`)
  // The handled ones are counted first: nothing can then have been handled that was not posted.
  const { rows: done } = await db.query(
    `SELECT count(*)::integer AS n FROM (SELECT FROM ${sharedSchema}.inbox WHERE message_id >= $1 GROUP BY message_id HAVING count(*) = $2) AS events`,
    [sinceId, handlers],
  )
  const { rows: committed } = await db.query(`SELECT (${events.join(' + ')})::integer AS n`, [sinceId])
  const counts = await outbox.counts(db)
  const unpublished = counts.pending + counts.delayed + counts.parked + counts.blocked
  const [{ messages }, deadLettered] = await Promise.all([broker.lag(topic, group), broker.deadLetters(topic, group).count()])
  return { posted: numberOf(committed), handled: numberOf(done), deadLettered, unpublished, pending: unpublished + messages }
}

const numberOf = (rows: unknown[]): number => (rows[0] as { n: number }).n
