import { asker, at, ms } from './postgres.ts'
import { inboxName, inboxSchema } from './schema.ts'
import type { InboxStore } from './store.ts'

/** An inbox on PostgreSQL 15 or later, or PGlite. */
export function postgresInbox(options: { schema: string; table: string }): InboxStore {
  const names = inboxName(options.schema, options.table)
  const ask = asker('inbox', names.label)
  const recording = `INSERT INTO ${names.table} (message_id, handler) SELECT $1::text, unnest($2::text[]) ON CONFLICT DO NOTHING
    RETURNING handler, coalesce(${at('$3')} < clock_timestamp() - ${ms('$4')}, false) AS old`
  return {
    schema: () => inboxSchema(names),

    alive: (tx) => tx.query('SELECT 1'),

    async nested(tx, fn) {
      await tx.query('SAVEPOINT core_backend_inbox')
      try {
        const result = await fn()
        await tx.query('RELEASE SAVEPOINT core_backend_inbox') // Refused when a statement failed and fn said nothing of it.
        return result
      } catch (error) {
        await tx.query('ROLLBACK TO SAVEPOINT core_backend_inbox')
        await tx.query('RELEASE SAVEPOINT core_backend_inbox')
        throw error
      }
    },

    async record(tx, messageId, handlers, timestamp, retentionMs) {
      const { rows } = await ask(tx, recording, [messageId, handlers, timestamp ?? null, retentionMs])
      const recorded = rows as { handler: string; old: boolean }[]
      return { recorded: recorded.map(({ handler }) => handler), old: recorded.some(({ old }) => old) }
    },

    async sweep(db, ageMs, limit) {
      const { rows } = await ask(
        db,
        `WITH swept AS (
           DELETE FROM ${names.table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM ${names.table} WHERE processed_at < now() - ${ms('$1')} LIMIT $2::integer)) RETURNING 1
         ) SELECT count(*)::text AS n FROM swept`,
        [ageMs, limit],
      )
      return Number((rows[0] as { n: string }).n)
    },
  }
}
