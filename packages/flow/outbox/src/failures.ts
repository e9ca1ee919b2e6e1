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
  readonly topics: readonly string[]
}

export interface Failures {
  /** Counts against the row, or against the broker. */
  failed(row: Row, failure: Failure, now: number): 'park' | 'wait'
  stored(row: Row): void
  /** Of a batch of this topic nothing was taken: others have their turn. */
  tookNothing(topic: string): void
  /** The broker took something: everybody may be tried again. */
  anew(): void
  /** Lanes whose failed row waits for its next attempt; and, since the broker took something last, lanes that were tried, and topics that had their turn. */
  excluded(now: number): Excluded
  /** Nothing was found beside those: lets more be tried. Whether there is any. */
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
  tried: boolean
}

/** Of one topic: more of them cost each look too much, and the topic is left out whole. */
const mostLanes = 2_000

/**
 * Tells a poison row from a broker that is down: a failure counts against the row only when the publisher said that it is final, when others of its batch
 * were stored, or when it was answered for and the broker took others since it failed before. An outage therefore parks nothing, however long it lasts.
 * Meanwhile all have their turn, so that a topic that takes nothing holds up no other. Counted in memory: a relay that takes a partition over begins at zero.
 */
export function createFailures(maxAttempts: number, backoff: Backoff, random: () => number): Failures {
  const failing = new Map<number, Failing>()
  const turns = new Map<string, number>()
  /** How many turns each topic may have now. */
  let round = 1
  let stores = 0
  const hadItsTurn = (topic: string): boolean => (turns.get(topic) ?? 0) >= round

  function anew(): void {
    round = 1
    turns.clear()
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
    tookNothing: (topic) => void turns.set(topic, (turns.get(topic) ?? 0) + 1),
    anew,
    excluded(now) {
      const lanes: string[] = []
      const topics = new Set([...turns.keys()].filter(hadItsTurn))
      const left = [...failing.values()].filter(({ topic, tried, until }) => !topics.has(topic) && (tried || until > now))
      for (const [topic, ofTopic] of Map.groupBy(left, (one) => one.topic))
        if (ofTopic.length >= mostLanes) topics.add(topic)
        else for (const { lane } of ofTopic) lanes.push(lane)
      return { lanes, topics: [...topics] }
    },
    further() {
      if ([...turns.keys()].some(hadItsTurn)) {
        round++
        return true
      }
      const some = turns.size > 0 || [...failing.values()].some(({ tried }) => tried)
      anew()
      return some
    },
    attempts: (row) => failing.get(row.id)?.attempts ?? 0,
    forgetAllBut(partitions) {
      for (const [id, { partition }] of failing) if (!partitions.includes(partition)) failing.delete(id)
    },
  }
}
