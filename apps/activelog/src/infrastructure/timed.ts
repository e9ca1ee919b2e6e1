import type { SqlClient } from '@core-backend/internal/sql'

/** The same client, which knows since when its oldest statement waits: for a connection, a session of a pooler or the answer. */
export function timed(db: SqlClient, now: () => number = () => performance.now()): SqlClient & { waitingMs(): number } {
  const waiting = new Set<{ readonly since: number }>()
  return {
    async query(text, values) {
      const statement = { since: now() }
      waiting.add(statement)
      try {
        return await db.query(text, values)
      } finally {
        waiting.delete(statement)
      }
    },
    waitingMs() {
      const [oldest] = waiting
      return oldest ? now() - oldest.since : 0
    },
  }
}
