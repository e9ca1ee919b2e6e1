import { fullJitter, type Backoff } from '#internal/backoff'
import type { Row } from './store.ts'

export interface Failure {
  /** The publisher said that it will never take this message. */
  final: boolean
  /** Something else of the same batch was stored. */
  othersStored: boolean
  /** Nothing else was in the batch. */
  alone: boolean
}

export interface Failures {
  /** Counts against the row, or against the broker. */
  failed(row: Row, failure: Failure, now: number): 'park' | 'wait'
  stored(row: Row): void
  /** Lanes whose failed row waits for its next attempt. */
  waiting(now: number): readonly string[]
  /** Attempts that count against a row so far. */
  attempts(row: Row): number
  /** Rows of partitions that were lost are somebody else's. */
  forgetAllBut(partitions: readonly number[]): void
}

/**
 * Tells a poison row from a broker that is down: a failure counts against the row only when the publisher said that it is final, when others of its batch
 * were stored, or when it failed alone and the broker took others since it failed before. An outage therefore parks nothing, however long it lasts.
 * Counted in memory: a relay that takes a partition over begins at zero.
 */
export function createFailures(maxAttempts: number, backoff: Backoff, random: () => number): Failures {
  const failing = new Map<number, { row: Row; attempts: number; seen: number; until: number }>()
  let stores = 0
  return {
    failed(row, { final, othersStored, alone }, now) {
      const known = failing.get(row.id)
      const counts = final || othersStored || (alone && known !== undefined && stores > known.seen)
      const attempts = (known?.attempts ?? 0) + (counts ? 1 : 0)
      failing.set(row.id, { row, attempts, seen: stores, until: counts ? now + fullJitter(attempts, backoff, random) : 0 })
      return attempts < maxAttempts ? 'wait' : 'park'
    },
    stored(row) {
      stores++
      failing.delete(row.id)
    },
    waiting: (now) => [...failing.values()].flatMap(({ row, until }) => (until > now ? [row.lane] : [])),
    attempts: (row) => failing.get(row.id)?.attempts ?? 0,
    forgetAllBut(partitions) {
      for (const [id, { row }] of failing) if (!partitions.includes(row.partition)) failing.delete(id)
    },
  }
}
