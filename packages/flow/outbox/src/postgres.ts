import type { SqlClient, Transaction } from '#internal/sql'
import { OutboxSchemaError } from './errors.ts'
import { columns, given, leaseOf, leaseParams, restorer } from './postgres-restore.ts'
import { keyed, laneHash, outboxNames, outboxSchema } from './schema.ts'
import type { Held, LeaseStore, NewRow, OutboxStore, QueueStore, Row, RowStore } from './store.ts'

// Every operation is one statement, so that it is atomic on a pool, on PGlite's single connection and through pgbouncer in transaction mode.
// int8 leaves as text: `pg` and PGlite read it differently.

/** Rows of one INSERT, and their bytes: the row that reaches them is the last. */
const chunk = 1_000
const chunkBytes = 8_388_608

/** Ms as an interval. */
export const ms = (param: string): string => `(${param}::float8 * interval '1 millisecond')`
const epochMs = (column: string): string => `(date_part('epoch', ${column}) * 1000)`
/** Ms since the epoch as a time. */
export const at = (param: string): string => `to_timestamp(${param}::float8 / 1000)`
/** An outbox on PostgreSQL 15 or later, or PGlite. */
export function postgresStore(options: { schema: string; table: string; partitions: number; notify: boolean }): OutboxStore {
  const names = outboxNames(options.schema, options.table)
  return { rows: rowStore(names, options), leases: leaseStore(names), queue: queueStore(names) }
}

function* chunks(rows: readonly NewRow[]): Generator<readonly NewRow[]> {
  let from = 0
  let bytes = 0
  for (const [i, { value, headers = '' }] of rows.entries()) {
    bytes += value.length + headers.length
    if (i + 1 - from < chunk && bytes < chunkBytes && i + 1 < rows.length) continue
    yield rows.slice(from, i + 1)
    from = i + 1
    bytes = 0
  }
}

/** What PostgreSQL says when a table, schema, column or function of ours is not there. */
const missing = new Set<unknown>(['42P01', '3F000', '42703', '42883'])

/** Runs a statement of ours; that its tables are not there becomes an error that says what to do. */
export function asker(
  what: 'outbox' | 'inbox',
  table: string,
): (db: SqlClient, ...statement: Parameters<SqlClient['query']>) => ReturnType<SqlClient['query']> {
  return async (db, text, values) => {
    try {
      return await db.query(text, values)
    } catch (error) {
      throw missing.has((error as { code?: unknown } | null)?.code) ? new OutboxSchemaError(what, table, error) : error
    }
  }
}

function rowStore(names: ReturnType<typeof outboxNames>, { partitions, notify }: { partitions: number; notify: boolean }): RowStore {
  const ask = asker('outbox', names.label)
  const insertions: Record<'ready' | 'delayed', string[]> = { ready: [], delayed: [] }
  return {
    schema: () => outboxSchema(names, partitions),

    async add(tx, rows) {
      const delayed = rows.filter(({ deliverAt }) => deliverAt !== undefined)
      const ready = delayed.length === 0 ? rows : rows.filter(({ deliverAt }) => deliverAt === undefined)
      for (const some of chunks(ready)) await insert(tx, some, false)
      for (const some of chunks(delayed)) await insert(tx, some, true)
    },

    async counts(db) {
      const { rows } = await ask(
        db,
        `
        SELECT pending::text AS pending, oldest, delayed::text AS delayed, parked::text AS parked, blocked::text AS blocked
        FROM (SELECT count(*) AS pending, ${epochMs('clock_timestamp() - min(created_at)')} AS oldest FROM ${names.table}) AS ready,
             (SELECT count(*) FILTER (WHERE state = 'delayed') AS delayed, count(*) FILTER (WHERE state = 'parked') AS parked,
                     count(*) FILTER (WHERE state IN ('blocked', 'released')) AS blocked FROM ${names.held}) AS aside`,
      )
      const row = rows[0] as { pending: string; oldest: number | null; delayed: string; parked: string; blocked: string }
      return {
        pending: Number(row.pending),
        oldestAgeMs: Math.max(0, row.oldest ?? 0),
        delayed: Number(row.delayed),
        parked: Number(row.parked),
        blocked: Number(row.blocked),
      }
    },

    async listParked(db, after, limit) {
      const { rows } = await ask(
        db,
        `SELECT h.id::text AS id, message_id, topic, key, attempts, error_code, error_message, ${epochMs('held_at')} AS at,
                (SELECT count(*) FROM ${names.held} b WHERE ${laneHash(keyed('b.'))} = ${laneHash(keyed('h.'))} AND b.due_at IS NULL
                   AND b.state = 'blocked' AND b.topic = h.topic AND b.key = h.key)::text AS blocked
         FROM ${names.held} h WHERE state = 'parked' AND due_at IS NULL AND id > $1 ORDER BY h.id LIMIT $2`,
        [after, limit],
      )
      return (
        rows as {
          id: string
          message_id: string
          topic: string
          key: string | null
          attempts: number
          error_code: string
          error_message: string
          at: number
          blocked: string
        }[]
      ).map((row) => ({
        id: Number(row.id),
        messageId: row.message_id,
        topic: row.topic,
        key: row.key ?? undefined,
        attempts: row.attempts,
        error: { code: row.error_code, message: row.error_message },
        parkedAt: Math.round(row.at),
        blocked: Number(row.blocked),
      }))
    },

    async releaseParked(db, ids) {
      return idsOf(
        await ask(db, `UPDATE ${names.held} SET state = 'released' WHERE id = ANY($1::bigint[]) AND state = 'parked' RETURNING id::text AS id`, [ids]),
      )
    },

    async discardParked(db, ids) {
      return idsOf(await ask(db, `DELETE FROM ${names.held} WHERE id = ANY($1::bigint[]) AND state = 'parked' RETURNING id::text AS id`, [ids]))
    },
  }

  async function insert(tx: Transaction, rows: readonly NewRow[], delayed: boolean): Promise<void> {
    const values = rows.flatMap((row) => [
      row.messageId,
      row.topic,
      row.key ?? null,
      row.value,
      row.headers ?? null,
      row.timestamp ?? null,
      row.dedupeId ?? null,
      ...(delayed ? [row.deliverAt] : []),
    ])
    await ask(tx, insertion(rows.length, delayed), values)
  }

  /** The same text for as many rows: most are few, and who prepares statements by their text knows it again. */
  function insertion(n: number, delayed: boolean): string {
    const known = delayed ? insertions.delayed : insertions.ready
    let text = known[n]
    if (text === undefined) {
      text = insertionText(n, delayed)
      if (n <= 16) known[n] = text
    }
    return text
  }

  function insertionText(n: number, delayed: boolean): string {
    const width = delayed ? 8 : 7
    const tuples = Array.from({ length: n }, (_, row) => {
      const $ = (i: number): string => `$${row * width + i}`
      return `(${$(1)}, ${$(2)}, ${$(3)}, ${$(4)}, ${$(5)}, ${at($(6))}, ${$(7)}${delayed ? `, 'delayed', ${at($(8))}` : ''})`
    })
    const into = delayed ? `${names.held} (${given}, state, due_at)` : `${names.table} (${given})`
    const text = `INSERT INTO ${into} VALUES ${tuples.join(', ')}`
    return notify && !delayed ? `WITH added AS (${text}) SELECT pg_notify('${names.label}', '')` : text
  }
}

function leaseStore(names: ReturnType<typeof outboxNames>): LeaseStore {
  const ask = asker('outbox', names.label)
  return {
    async renew(db, relay, leaseMs) {
      const { rows } = await ask(
        db,
        `WITH beat AS (
           INSERT INTO ${names.relays} AS r (relay, expires_at) VALUES ($1, clock_timestamp() + ${ms('$2')})
           ON CONFLICT (relay) DO UPDATE SET expires_at = excluded.expires_at
         ), gone AS (
           DELETE FROM ${names.relays} WHERE relay IN (
             SELECT relay FROM ${names.relays} WHERE expires_at < clock_timestamp() - interval '1 minute' AND relay <> $1 FOR UPDATE SKIP LOCKED)
         ), kept AS (
           UPDATE ${names.leases} SET expires_at = clock_timestamp() + ${ms('$2')} WHERE owner = $1 RETURNING partition
         )
         SELECT l.partition, l.epoch::text AS epoch, k.partition IS NOT NULL AS mine, l.owner IS NULL OR l.expires_at <= clock_timestamp() AS free,
                (SELECT count(*) FROM ${names.relays} WHERE relay <> $1 AND expires_at > clock_timestamp())::text AS others
         FROM ${names.leases} l LEFT JOIN kept k USING (partition) ORDER BY l.partition`,
        [relay, leaseMs],
      )
      const view = rows as { partition: number; epoch: string; mine: boolean; free: boolean; others: string }[]
      return {
        relays: 1 + Number(view[0]?.others ?? 0),
        mine: view.filter((row) => row.mine).map((row) => ({ partition: row.partition, epoch: Number(row.epoch) })),
        free: view.filter((row) => row.free && !row.mine).map((row) => row.partition),
        partitions: view.length,
      }
    },

    async claim(db, relay, leaseMs, partitions) {
      const { rows } = await ask(
        db,
        `UPDATE ${names.leases} l SET owner = $1, epoch = epoch + 1, expires_at = clock_timestamp() + ${ms('$2')}
         FROM (SELECT partition FROM ${names.leases} WHERE partition = ANY($3::smallint[]) AND (owner IS NULL OR expires_at <= clock_timestamp()) FOR UPDATE SKIP LOCKED) f
         WHERE l.partition = f.partition RETURNING l.partition, l.epoch::text AS epoch`,
        [relay, leaseMs, partitions],
      )
      return (rows as { partition: number; epoch: string }[]).map((row) => ({ partition: row.partition, epoch: Number(row.epoch) }))
    },

    async release(db, relay, leases, leaving) {
      await ask(
        db,
        `WITH left_over AS (DELETE FROM ${names.relays} WHERE $4::boolean AND relay = $1)
         UPDATE ${names.leases} l SET owner = NULL, expires_at = '-infinity' FROM unnest($2::smallint[], $3::bigint[]) AS h(partition, epoch)
         WHERE l.owner = $1 AND l.partition = h.partition AND l.epoch = h.epoch`,
        [relay, ...leaseParams(leases), leaving],
      )
    },
  }
}

function queueStore(names: ReturnType<typeof outboxNames>): QueueStore {
  const ask = asker('outbox', names.label)

  return {
    async next(db, { done, from, upTo, except, limit, limitBytes, few = false }) {
      // The length of a body is known without reading it.
      const { rows } = await ask(
        db,
        `SELECT id::text AS id, partition, message_id, topic, key, value, headers::text AS headers, dedupe_id,
                ${epochMs('coalesce(timestamp, created_at)')} AS timestamp, ${epochMs('clock_timestamp() - created_at')} AS age
         FROM (
           SELECT *, sum(octet_length(value)) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
           FROM ${names.next}($1::smallint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::text[], $6::text[], $7::bigint, $8::integer, $9::boolean)
         ) AS r WHERE coalesce(bytes_before, 0) < $10::bigint ORDER BY r.id`,
        [
          done.map((r) => r.partition),
          done.map((r) => r.id),
          from.map((f) => f.partition),
          from.map((f) => f.low),
          except.lanes,
          except.topics,
          upTo ?? null,
          limit,
          few,
          limitBytes,
        ],
      )
      return (rows as RawRow[]).map(toRow)
    },

    async hold(db, leases, rows) {
      const parked = (row: Held): { attempts: number; error: { code: string; message: string } } | undefined => (row.state === 'parked' ? row : undefined)
      return idsOf(
        await ask(
          db,
          `WITH ${leaseOf(names)}, moved AS (
             DELETE FROM ${names.table} t USING unnest($3::smallint[], $4::bigint[], $5::text[], $6::integer[], $7::text[], $8::text[]) AS m(partition, id, state, attempts, code, message)
             WHERE t.partition = m.partition AND t.id = m.id AND t.partition IN (SELECT partition FROM lease)
             RETURNING t.id, ${columns}, m.state, m.attempts, m.code, m.message
           )
           INSERT INTO ${names.held} (id, ${columns}, state, attempts, error_code, error_message)
           SELECT id, ${columns}, state, attempts, code, message FROM moved RETURNING id::text AS id`,
          [
            ...leaseParams(leases),
            rows.map((row) => row.partition),
            rows.map((row) => row.id),
            rows.map((row) => row.state),
            rows.map((row) => parked(row)?.attempts ?? 0),
            rows.map((row) => storable(parked(row)?.error.code)),
            rows.map((row) => storable(parked(row)?.error.message)),
          ],
        ),
      )
    },

    restore: restorer(names, ask),

    async horizon(db) {
      // Whoever took an id holds this lock from before it did until its transaction ends, a prepared one included. A sequence that was never used says 1, and nobody has that id.
      // A restart, after a crash too, gives a prepared transaction another name, -1/xid; RESTART IDENTITY makes the sequence anew.
      const { rows } = await ask(
        db,
        `WITH writers AS (
           SELECT virtualtransaction AS name FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND relation = '${names.table}'::regclass
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
         )
         SELECT (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM ${names.sequence})::text AS last,
                array_to_string(ARRAY(SELECT name FROM writers), ' ') AS writers,
                concat_ws(' ', pg_postmaster_start_time(), pg_relation_filenode('${names.sequence}'), (SELECT max(name) FROM writers WHERE name LIKE '-1/%')) AS origin`,
      )
      const { last, writers, origin } = rows[0] as { last: string; writers: string; origin: string }
      return { origin, last: Number(last), writers: writers === '' ? [] : writers.split(' ') }
    },

    async longest(db, ageMs) {
      const { rows } = await ask(
        db,
        `SELECT pid, coalesce(application_name, '') AS application, coalesce(state, '') AS state, ${epochMs('clock_timestamp() - xact_start')} AS age
         FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
           AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL) AND xact_start < clock_timestamp() - ${ms('$1')} ORDER BY xact_start LIMIT 1`,
        [ageMs],
      )
      const row = rows[0] as { pid: number; application: string; state: string; age: number } | undefined
      return row && { pid: row.pid, application: row.application, state: row.state, ageMs: row.age }
    },
  }
}

/** An error may quote the body; a text in PostgreSQL has no NUL. */
const storable = (text: string | undefined): string | null => text?.replaceAll('\0', '\uFFFD') ?? null

interface RawRow {
  id: string
  partition: number
  message_id: string
  topic: string
  key: string | null
  value: Uint8Array
  headers: string | null
  timestamp: number
  dedupe_id: string | null
  age: number
}

function toRow(row: RawRow): Row {
  return {
    id: Number(row.id),
    partition: row.partition,
    lane: row.key === null ? `/${row.message_id}` : `${row.topic}/${row.key}`,
    messageId: row.message_id,
    topic: row.topic,
    key: row.key ?? undefined,
    value: row.value,
    headers: row.headers === null ? {} : (JSON.parse(row.headers) as Record<string, string>),
    timestamp: Math.round(row.timestamp),
    dedupeId: row.dedupe_id ?? undefined,
    ageMs: row.age,
  }
}

const idsOf = ({ rows }: { rows: unknown[] }): number[] => (rows as { id: string }[]).map((row) => Number(row.id))
