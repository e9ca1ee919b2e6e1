import type { SqlClient } from '@core-backend/internal/sql'

/** Rows a statement: one that deletes all of a long time holds their locks, and every stream of `/events`, until its end. */
const stepRows = 10_000

/** Deletes the rows for which `past` holds. What is renewed meanwhile stays. */
export async function forget(db: SqlClient, table: string, past: string, signal?: AbortSignal): Promise<void> {
  for (;;) {
    signal?.throwIfAborted()
    const { rows } = await db.query(
      `WITH gone AS (DELETE FROM ${table} WHERE ${past} AND ctid = ANY (ARRAY(SELECT ctid FROM ${table} WHERE ${past} LIMIT ${stepRows})) RETURNING 1)
       SELECT count(*)::integer AS n FROM gone`,
    )
    if ((rows[0] as { n: number }).n < stepRows) return
  }
}
