import type { SqlClient } from '#internal/sql'
import { keyed, laneHash, type Names } from './schema.ts'
import { restoreRows, type Lease, type QueueStore, type Restored } from './store.ts'

/** What of a row its writer gives. */
export const given = 'message_id, topic, key, value, headers, timestamp, dedupe_id'
export const columns: string = `${given}, created_at`
export const leaseParams = (leases: readonly Lease[]): unknown[] => [leases.map((l) => l.partition), leases.map((l) => l.epoch)]
/** A move counts only under a lease that nobody has taken since; the lock makes a taker wait until the move is seen. */
export const leaseOf = ({ leases }: Names): string => `lease AS MATERIALIZED (
    SELECT l.partition FROM ${leases} l JOIN unnest($1::smallint[], $2::bigint[]) AS held(partition, epoch) USING (partition, epoch) FOR UPDATE OF l
  )`
const ours = 'partition = ANY (ARRAY(SELECT partition FROM lease))'

type Ask = (db: SqlClient, text: string, values: unknown[]) => Promise<{ rows: unknown[] }>
type Back = Omit<Restored, 'blocked'>

/**
 * Brings rows back in steps, as all that waited behind one parked row may be more than a lease lasts. What there is to do is seen from the parked and released rows,
 * and from the lanes that were blocked before: all that waits behind them need not be read.
 */
export function restorer(names: Names, ask: Ask): QueueStore['restore'] {
  const inState = (state: string): string => `FROM ${names.held} WHERE state = '${state}' AND due_at IS NULL AND ${ours}`
  const most = `ORDER BY id LIMIT ${restoreRows}`

  const due = `SELECT id FROM ${names.held} WHERE ${ours} AND due_at <= now() ORDER BY due_at, id LIMIT ${restoreRows}`
  const unparked = `(SELECT id ${inState('released')} ${most}) UNION ALL (SELECT id ${inState('blocked')} ${most}) LIMIT ${restoreRows}`
  // Lane by lane, each from its oldest row on: the limit leaves none out that is older than one of its lane that it lets through.
  const freed = `(SELECT id ${inState('released')} AND key IS NULL ${most}) UNION ALL
    (SELECT r.id FROM unnest($3::text[]) AS l(lane) CROSS JOIN ${names.aside}(l.lane, ${restoreRows}) AS r WHERE ${ours}) LIMIT ${restoreRows}`

  /** Due rows go to the end of their lane, others to their old place. */
  async function bring(db: SqlClient, leases: readonly Lease[], chosen: string, ...params: unknown[]): Promise<Back> {
    const { rows } = await ask(
      db,
      `WITH ${leaseOf(names)}, chosen AS (${chosen}), moved AS (
         DELETE FROM ${names.held} WHERE id = ANY (ARRAY(SELECT id FROM chosen)) RETURNING id, partition, ${columns}, due_at
       ), placed AS (
         INSERT INTO ${names.table} (id, ${columns}) SELECT id, ${columns} FROM moved WHERE due_at IS NULL
       ), joined AS (
         INSERT INTO ${names.table} (${given})
         SELECT message_id, topic, key, value, headers, greatest(coalesce(timestamp, created_at), due_at), dedupe_id FROM moved WHERE due_at IS NOT NULL ORDER BY due_at, id
       )
       SELECT partition, count(*)::text AS moved FROM moved GROUP BY partition`,
      [...leaseParams(leases), ...params],
    )
    const moved = rows as { partition: number; moved: string }[]
    return { moved: moved.reduce((sum, row) => sum + Number(row.moved), 0), restored: moved.map((row) => row.partition) }
  }

  async function few(db: SqlClient, partitions: readonly number[]): Promise<{ lane: string | null; first: string; parked: boolean; released: boolean }[]> {
    const { rows } = await ask(
      db,
      `SELECT ${keyed()} AS lane, min(id)::text AS first, bool_or(state = 'parked') AS parked, bool_or(state = 'released') AS released FROM ${names.held}
       WHERE state IN ('parked', 'released') AND due_at IS NULL AND partition = ANY ($1::smallint[]) GROUP BY lane`,
      [partitions],
    )
    return rows as { lane: string | null; first: string; parked: boolean; released: boolean }[]
  }

  /** All lanes that have rows aside, with the oldest: goes from lane to lane in the index. */
  const lanes = `WITH RECURSIVE lanes AS (
      (SELECT ${laneHash(keyed())} AS hash, ${keyed()} AS lane, id, partition FROM ${names.held} WHERE due_at IS NULL AND key IS NOT NULL ORDER BY hash, id LIMIT 1)
      UNION ALL
      SELECT n.* FROM lanes l CROSS JOIN LATERAL (
        SELECT ${laneHash(keyed())} AS hash, ${keyed()} AS lane, id, partition FROM ${names.held}
        WHERE ${laneHash(keyed())} > l.hash AND due_at IS NULL AND key IS NOT NULL ORDER BY hash, id LIMIT 1) n
    ) SELECT lane, id::text AS first FROM lanes WHERE partition = ANY ($1::smallint[])`
  const firsts = `SELECT l.lane, r.id::text AS first FROM unnest($2::text[]) AS l(lane) CROSS JOIN ${names.aside}(l.lane, 1) AS r WHERE r.partition = ANY ($1::smallint[])`

  async function firstOf(db: SqlClient, text: string, ...params: unknown[]): Promise<[lane: string, first: number][]> {
    const { rows } = await ask(db, text, params)
    return (rows as { lane: string; first: string }[]).map(({ lane, first }) => [lane, Number(first)])
  }

  async function bringFreed(db: SqlClient, leases: readonly Lease[], known: ReadonlyMap<string, number> | undefined): Promise<Restored> {
    const partitions = leases.map((lease) => lease.partition)
    const before = known ?? new Map(await firstOf(db, lanes, partitions))
    const seen = await few(db, partitions)
    const blocked = new Map<string, number>()
    for (const { lane, first, parked } of seen) if (lane !== null && parked) blocked.set(lane, Math.min(Number(first), before.get(lane) ?? Infinity))
    const free = new Set([...before.keys(), ...seen.map(({ lane }) => lane)].filter((lane) => lane !== null && !blocked.has(lane)))
    if (free.size === 0 && !seen.some(({ lane, released }) => lane === null && released)) return { moved: 0, restored: [], blocked }
    const back = await bring(db, leases, freed, [...free].slice(0, restoreRows))
    for (const [lane, first] of await firstOf(db, firsts, partitions, [...free])) blocked.set(lane, first)
    return { ...back, blocked }
  }

  /** All of it, in as many steps as it takes: no lane is blocked, so what is newer must not be read before. */
  async function bringAll(db: SqlClient, leases: readonly Lease[]): Promise<Restored> {
    const all: Back[] = []
    do all.push(await bring(db, leases, unparked))
    while (all.at(-1)!.moved === restoreRows)
    return { moved: all.reduce((sum, { moved }) => sum + moved, 0), restored: all.flatMap(({ restored }) => restored), blocked: new Map() }
  }

  return async (db, leases, { skip, known }) => {
    const { moved } = await bring(db, leases, due)
    const back = skip ? await bringAll(db, leases) : await bringFreed(db, leases, known)
    return { ...back, moved: moved + back.moved }
  }
}
