import type { Transaction } from '@core-backend/internal/sql'
import type { EventLog, LoggedEvent, Logger, Position } from '../application/ports.ts'
import type { Database } from './database.ts'
import { forget } from './forget.ts'
import { schemaOf } from './schema.ts'
import { type WaitOptions, whenFree } from './when-free.ts'

/** How long `/events` goes on from an event. */
const keptFor = "interval '24 hours'"

/** Before all events; a stream that begins when there is none yet gets this id. */
export const beginning: Position = { txid: '0', id: '00000000-0000-0000-0000-000000000000' }
/** Transactions below this one have all ended. */
const horizon = 'pg_snapshot_xmin(pg_current_snapshot())'

/** The log that requests write. An event is in it once no transaction is open that began to write before its own: such a one could still come before it. */
export function eventLog(db: Database): EventLog {
  return {
    async position(tenant, id) {
      const events = `SELECT txid::text, id FROM ${schemaOf(tenant)}.events`
      // Behind an event, which stays, and not at the horizon itself: a crash takes back numbers of transactions that wrote nothing, and they are given out again.
      const { rows } =
        id === undefined
          ? await db.query(`${events} WHERE txid < ${horizon} ORDER BY events.txid DESC, id DESC LIMIT 1`)
          : await db.query(`${events} WHERE id = $1`, [id])
      return (rows as Position[])[0] ?? beginning
    },

    async after(tenant, { txid, id }, limit, limitBytes) {
      const { rows } = await db.query(
        `SELECT id, txid::text, name, activity FROM (
           SELECT *, sum(octet_length(activity::text)) OVER (ORDER BY txid, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before FROM (
             SELECT id, txid, name, activity FROM ${schemaOf(tenant)}.events
             WHERE (txid, id) > ($1::text::xid8, $2::uuid) AND txid < ${horizon} ORDER BY events.txid, id LIMIT $3
           ) AS next
         ) AS r WHERE coalesce(bytes_before, 0) < $4::bigint ORDER BY r.txid, r.id`,
        [txid, id, limit, limitBytes],
      )
      return rows as LoggedEvent[]
    },
  }
}

/** Forgets the events from which nobody can go on any more. */
export async function forgetOldEvents(db: Database, tenants: readonly string[], signal?: AbortSignal): Promise<void> {
  for (const tenant of tenants) await forget(db, `${schemaOf(tenant)}.events`, `written_at < now() - ${keptFor}`, signal)
}

/**
 * A dump that was restored into another server has events of transactions that are still to come there: nobody would see them, nor what is written behind
 * them, for as long as that takes. They are taken for events of now, in the order of their ids. On the server that wrote them there are none.
 */
export async function adoptEvents(db: Database, tenants: readonly string[], logger: Logger, options: Omit<WaitOptions, 'logger'> = {}): Promise<void> {
  for (const tenant of tenants) {
    const schema = schemaOf(tenant)
    const adopt = async (tx: Transaction): Promise<number> => {
      await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('activelog events', 0))")
      const { rows } = await tx.query(
        `WITH adopted AS (UPDATE ${schema}.events SET txid = pg_current_xact_id() WHERE txid >= pg_snapshot_xmax(pg_current_snapshot()) RETURNING 1)
         SELECT count(*)::integer AS n FROM adopted`,
      )
      return (rows[0] as { n: number }).n
    }
    const adopted = await whenFree(db, schema, adopt, { logger, ...options })
    if (adopted > 0)
      logger.warn({ table: `tenant_${tenant}.events`, events: adopted }, 'Events of another server, as after restoring a dump, now stand last in the log')
  }
}
