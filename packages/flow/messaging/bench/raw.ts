// The floor: the same durable work, written by hand on pg. One row a message with the same columns, partition and offset by a counter row (so that a reader's cursor never
// skips), an id and a promise a message, the window gathered into one INSERT from unnest; read by cursor, the cursor committed in the background.
import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { partitionOf } from '../src/partition.ts'

interface Row {
  id: string
  key: string
  value: Uint8Array
  resolve(): void
  reject(error: unknown): void
}

const partitions = [0, 1, 2, 3]

export async function createRaw(
  pool: pg.Pool,
): Promise<{ publish(key: string, value: Uint8Array): Promise<void>; drain(handle: (row: { id: string }) => unknown): Promise<() => Promise<void>> }> {
  await pool.query(`CREATE TABLE counters (pid int PRIMARY KEY, next bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE log (pid int, "offset" bigint, ts double precision NOT NULL, id text NOT NULL, key text, headers text, value bytea, PRIMARY KEY (pid, "offset"));
    CREATE TABLE cursors (pid int PRIMARY KEY, next bigint NOT NULL) WITH (fillfactor = 50);
    INSERT INTO counters SELECT p, 0 FROM generate_series(0, 3) p; INSERT INTO cursors SELECT p, 0 FROM generate_series(0, 3) p`)
  let waiting: Row[] = []
  let busy = false

  const flush = async (): Promise<void> => {
    while (waiting.length > 0) {
      const rows = waiting.splice(0, 1_000)
      const counts = [0, 0, 0, 0]
      const pids = rows.map((row) => partitionOf(row.key, 4))
      const places = pids.map((pid) => counts[pid]!++)
      try {
        await pool.query(
          `WITH bumped AS (UPDATE counters c SET next = c.next + n FROM unnest($1::int[]) WITH ORDINALITY AS t(n, p) WHERE c.pid = p - 1 RETURNING c.pid, c.next - n AS base)
          INSERT INTO log SELECT r.pid, b.base + r.place, $6, r.id, r.key, NULL, r.value
          FROM unnest($2::int[], $3::int[], $4::text[], $5::text[], $7::bytea[]) AS r(pid, place, id, key, value) JOIN bumped b ON b.pid = r.pid`,
          [counts, pids, places, rows.map((row) => row.id), rows.map((row) => row.key), Date.now(), rows.map((row) => row.value)],
        )
        for (const row of rows) row.resolve()
      } catch (error) {
        for (const row of rows) row.reject(error)
      }
    }
    busy = false
  }

  return {
    publish: (key, value) =>
      new Promise((resolve, reject) => {
        waiting.push({ id: randomUUID(), key, value, resolve, reject })
        if (busy) return
        busy = true
        queueMicrotask(() => void flush())
      }),

    drain: async (handle) => {
      const next = [0, 0, 0, 0]
      const commit = async (): Promise<void> => {
        await pool.query('UPDATE cursors c SET next = t.n FROM unnest($1::bigint[]) WITH ORDINALITY AS t(n, p) WHERE c.pid = p - 1', [[...next]])
      }
      let since = 0
      let committing: Promise<void> | undefined
      const read = (): Promise<{ rows: { pid: number; offset: number; id: string }[] }> =>
        pool.query(
          `SELECT m.pid, m."offset"::float8 AS "offset", m.ts, m.id, m.key, m.headers, m.value FROM unnest($1::int[], $2::bigint[]) AS w(pid, at)
          CROSS JOIN LATERAL (SELECT * FROM log m WHERE m.pid = w.pid AND m."offset" >= w.at ORDER BY m."offset" LIMIT 250) m`,
          [partitions, next],
        )
      for (;;) {
        const { rows } = await read()
        if (rows.length === 0) break
        for (const row of rows) {
          const answer = handle(row)
          if (answer instanceof Promise) await answer
          next[row.pid] = row.offset + 1
        }
        if ((since += rows.length) >= 500) {
          since = 0
          committing ??= commit().finally(() => (committing = undefined))
        }
      }
      return async () => {
        await committing
        await commit()
      }
    },
  }
}
