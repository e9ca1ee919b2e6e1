import { fullJitter, type Backoff } from '#internal/backoff'
import type { Row } from './store.ts'

export interface Failure {
  /** The publisher said that it will never take this message. */
  final: boolean
  /** Something else of the same batch was stored. */
  othersStored: boolean
  /** The broker answered for this row, and not only for its batch. */
  individually: boolean
}

/** What a look leaves out. */
export interface Excluded {
  readonly lanes: readonly string[]
  /** Whole, because so many of their lanes fail. */
  readonly topics: readonly string[]
}

export interface Failures {
  /** Counts against the row, or against the broker. */
  failed(row: Row, failure: Failure, now: number): 'park' | 'wait'
  stored(row: Row): void
  /** Lanes whose failed row waits for its next attempt, or had its turn while the broker takes nothing. `size` is that of the batches sent now. */
  excluded(now: number, size: number): Excluded
  /** The broker took something: everybody may be tried again. */
  anew(): void
  /** Nothing was found beside what is left out: lets more be tried. Whether there is any. */
  further(): boolean
  /** Attempts that count against a row so far. */
  attempts(row: Row): number
  /** Rows of partitions that were lost are somebody else's. */
  forgetAllBut(partitions: readonly number[]): void
}

interface Failing extends Pick<Row, 'lane' | 'topic' | 'partition'> {
  attempts: number
  /** How many were stored when it failed last. */
  seen: number
  until: number
  /** It failed since the broker took something for the last time. */
  tried: boolean
}

/** Of one topic: more of them cost each look too much. */
const mostLanes = 2_000
/** Batches that a topic may fail before the others have their turn. */
const mostBatches = 2

/**
 * Tells a poison row from a broker that is down: a failure counts against the row only when the publisher said that it is final, when others of its batch
 * were stored, or when it was answered for and the broker took others since it failed before. An outage therefore parks nothing, however long it lasts.
 * Meanwhile all have their turn, so that a topic that takes nothing holds up no other. Counted in memory: a relay that takes a partition over begins at zero.
 */
export function createFailures(maxAttempts: number, backoff: Backoff, random: () => number): Failures {
  const failing = new Map<number, Failing>()
  let stores = 0
  /** How often each topic may have its batches now. */
  let round = 1
  /** Topics wait for the next round. */
  let waiting = false

  function anew(): void {
    round = 1
    for (const one of failing.values()) one.tried = false
  }

  return {
    failed({ id, lane, topic, partition }, { final, othersStored, individually }, now) {
      const known = failing.get(id)
      const counts = final || othersStored || (individually && known !== undefined && stores > known.seen)
      const attempts = (known?.attempts ?? 0) + (counts ? 1 : 0)
      const until = counts ? now + fullJitter(attempts, backoff, random) : 0
      failing.set(id, { lane, topic, partition, attempts, seen: stores, until, tried: individually })
      return attempts < maxAttempts ? 'wait' : 'park'
    },
    stored(row) {
      stores++
      failing.delete(row.id)
    },
    excluded(now, size) {
      const lanes: string[] = []
      const topics: string[] = []
      waiting = false
      const left = [...failing.values()].filter(({ until, tried }) => tried || until > now)
      for (const [topic, ofTopic] of Map.groupBy(left, (one) => one.topic)) {
        const tried = ofTopic.reduce((sum, one) => sum + (one.tried ? 1 : 0), 0)
        const hadItsTurn = tried >= mostBatches * size * round
        waiting ||= hadItsTurn && ofTopic.length < mostLanes
        if (hadItsTurn || ofTopic.length >= mostLanes) topics.push(topic)
        else for (const { lane } of ofTopic) lanes.push(lane)
      }
      return { lanes, topics }
    },
    anew,
    further() {
      if (waiting) round++
      const found = waiting || [...failing.values()].some(({ tried }) => tried)
      if (!waiting) anew()
      return found
    },
    attempts: (row) => failing.get(row.id)?.attempts ?? 0,
    forgetAllBut(partitions) {
      for (const [id, { partition }] of failing) if (!partitions.includes(partition)) failing.delete(id)
    },
  }
}
