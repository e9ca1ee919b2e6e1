import { fullJitter, type Backoff } from '#internal/backoff'
import type { Outcome, PublishResult } from './publish.ts'
import type { Row } from './store.ts'

/** What to look for: all but these lanes and topics. */
export interface Look {
  readonly lanes: readonly string[]
  readonly topics: readonly string[]
  readonly limit: number
  /** Whether all topics under suspicion are left out. */
  readonly others: boolean
  /** Below the first row that is due and known, where a topic is left out: between the two there may be more of that than one look passes. */
  readonly low: number
  /** Goes up when a topic is under suspicion no longer. */
  readonly cleared: number
}

/** Rows that are sent together. */
export interface Send {
  readonly rows: readonly Row[]
  /** By itself, beside the others: new rows of a topic, or those of it that failed before. */
  readonly apart: 'new' | 'again' | undefined
}

export interface Failed {
  readonly row: Row
  readonly error: NonNullable<PublishResult['error']>
}

/** What a send means. */
export interface Verdict {
  readonly stored: readonly Row[]
  /** The first of each lane that was not stored: only it was tried for certain. */
  readonly failed: readonly Failed[]
  /** Of those, the ones that no further attempt is made for. */
  readonly poison: readonly Failed[]
  /** The publisher said of something that it will never take it, so it is there. */
  readonly refused: boolean
}

export interface Failures {
  /** Leaves out lanes whose failed row waits for its next attempt or had its turn, topics that are under way by themselves or wait, and in turn all that are under suspicion. */
  look(now: number): Look
  /**
   * Takes in what that found; `full` when there may be more, as of topics that were left out, `over` unless it is to go on elsewhere. `now` is when it began: a lane whose
   * time came since was left out all the same. Whether to look again at once.
   */
  looked(rows: readonly Row[], look: { full: boolean; over: boolean }, now: number): boolean
  /** Which of these rows go now, and which together. */
  sends(rows: readonly Row[]): readonly Send[]
  settle(send: Send, outcome: Outcome, now: number): Verdict
  /** Attempts that count against a row so far. */
  attempts(row: Row): number
  forget(row: Row): void
  /** Rows of partitions that were lost are somebody else's. */
  forgetAllBut(partitions: readonly number[]): void
  /** Nothing is left out of the next look but what is under way: leaving out much may be what the database had no patience for. */
  anew(): void
  /** Whether each topic took something when it was sent last. */
  calm(): boolean
}

export interface FailuresOptions {
  /** That count against a row until it is poison. */
  maxAttempts: number
  /** Between attempts of a row. */
  retry: Backoff
  /** Between sends of a topic that takes nothing. */
  backoff: Backoff
  /** Rows sent together at most. */
  batch: number
  random: () => number
}

interface Failing extends Pick<Row, 'lane' | 'topic' | 'partition'> {
  attempts: number
  /** How many were stored when it was answered for last, or failed first. */
  seen: number
  until: number
  /** Had its turn while its topic takes nothing: others of the topic have theirs. */
  tried: boolean
  /** It failed by itself while others were stored, or again in a send that failed as a whole: it may be what spoils a batch, and goes by itself. */
  alone: boolean
}

interface Suspect {
  /** Sends in a row of which it took nothing. */
  failures: number
  until: number
  /** Rows to send at once: halved while a send fails as a whole, so that one row that spoils it is found and cannot pass for an outage. */
  size: number
  /** New rows of it; and rows that failed before: a row that hangs again and again holds up no other of its topic. */
  underWay: boolean
  again: boolean
  /** Sends in a row of rows that failed before which counted against none of them, as the broker took nothing since: as an outage is, it is no reason to try again at once. */
  vain: number
  againUntil: number
}

/** Lanes of one topic: more of them cost each look too much, and the topic is left out whole. */
const mostLanes = 2_000
/** Sends under way by themselves at a time. */
const mostApart = 32

/**
 * Tells a poison row from a broker that is down: a failure counts against the row only when the publisher said that it is final, when others of its send
 * were stored, or when it was answered for and the broker took others since it failed before. An outage of the broker therefore parks nothing, however long it lasts.
 * A topic of which something failed is under suspicion, and sent by itself beside the others until it takes all again: if it hangs or spoils its batch, it does so
 * to itself alone. Counted in memory: a relay that takes a partition over begins at zero.
 */
export function createFailures({ maxAttempts, retry, backoff, batch, random }: FailuresOptions): Failures {
  const failing = new Map<number, Failing>()
  const suspects = new Map<string, Suspect>()
  let stores = 0
  let cleared = 0
  /** Whether the next look is for those above suspicion: a topic that is tried again and again must not stand before them each time. */
  let forOthers = false
  /** Whether there are any: then a look reads as much as ever. */
  let others = true

  const all = (): Suspect[] => [...suspects.values()]
  const room = (): number => mostApart - all().reduce((n, { underWay, again }) => n + Number(underWay) + Number(again), 0)
  const isDue = (suspect: Suspect, now: number): boolean => !suspect.underWay && suspect.until <= now
  const waiting = (topic: string): Failing[] => [...failing.values()].filter((one) => one.topic === topic)

  /** Whether it was the last attempt. */
  function count({ id, lane, topic, partition }: Row, against: boolean, individually: boolean, alone: boolean, now: number): boolean {
    const known = failing.get(id)
    const counts = against || (individually && known !== undefined && stores > known.seen)
    const attempts = (known?.attempts ?? 0) + Number(counts)
    const until = counts ? now + fullJitter(attempts, retry, random) : 0
    const seen = individually || known === undefined ? stores : known.seen
    failing.set(id, { lane, topic, partition, attempts, seen, until, tried: individually, alone: (alone && attempts > 0) || known?.alone === true })
    return attempts >= maxAttempts
  }

  const trust = (topic: string): void => {
    if (suspects.delete(topic)) cleared++
  }
  /** Of a topic under suspicion: what waits for its time, had its turn, or is under way. */
  const isLeftOut = ({ topic, tried, until, attempts }: Failing, now: number): boolean => {
    const { again = false, againUntil = 0 } = suspects.get(topic) ?? {}
    return tried || until > now || (attempts > 0 && (again || againUntil > now))
  }

  return {
    look(now) {
      const none = forOthers || room() <= 0
      const due = all().filter((suspect) => !none && isDue(suspect, now))
      const topics = new Set([...suspects].filter(([, suspect]) => !due.includes(suspect)).map(([topic]) => topic))
      const lanes: string[] = []
      const left = [...failing.values()].filter((one) => !topics.has(one.topic) && isLeftOut(one, now))
      for (const [topic, ofTopic] of Map.groupBy(left, (one) => one.topic))
        if (ofTopic.length >= mostLanes) topics.add(topic)
        else for (const { lane } of ofTopic) lanes.push(lane)
      const known = [...failing].filter(([, one]) => topics.size > 0 && !topics.has(one.topic) && !isLeftOut(one, now)).map(([id]) => id)
      const low = known.reduce((least, id) => Math.min(least, id - 1), known.length === 0 ? 0 : Infinity)
      // While nothing else is there, no more bodies than are sent.
      const limit = due.length === 0 || others ? batch : due.reduce((sum, { size }) => sum + size, 0)
      return { lanes, topics: [...topics], limit: Math.min(batch, limit), others: suspects.size > 0 && due.length === 0, low, cleared }
    },

    looked(rows, { full, over }, now) {
      const none = forOthers || room() <= 0
      if (rows.some((row) => !suspects.has(row.topic))) others = true
      else if (!over) return (forOthers = true)
      else if (forOthers) others = false
      forOthers = false
      if (none) return all().some((suspect) => isDue(suspect, now)) && room() > 0
      const found = new Set(rows.map((row) => row.topic))
      let more = false
      for (const [topic, suspect] of suspects) {
        if (found.has(topic) || !isDue(suspect, now)) continue
        const rest = waiting(topic)
        if (rest.some((one) => one.tried)) more = true
        else if (!full && !suspect.again && !rest.some((one) => isLeftOut(one, now))) {
          // Nothing of it is there any more: somebody else published or deleted what failed.
          trust(topic)
          for (const [id, one] of failing) if (one.topic === topic) failing.delete(id)
        }
        for (const one of rest) one.tried = false
      }
      return more
    },

    sends(rows) {
      const sends: Send[] = []
      const trusted = rows.filter((row) => !suspects.has(row.topic))
      if (trusted.length > 0) sends.push({ rows: trusted, apart: undefined })
      const suspected = rows.filter((row) => suspects.has(row.topic))
      for (const [topic, ofTopic] of Map.groupBy(suspected, (row) => row.topic)) {
        const suspect = suspects.get(topic)!
        const again = ofTopic.filter((row) => (failing.get(row.id)?.attempts ?? 0) > 0)
        const lanes = new Set(again.map((row) => row.lane))
        const fresh = ofTopic.filter((row) => !lanes.has(row.lane)).slice(0, suspect.size)
        if (fresh.length > 0 && room() > 0) {
          suspect.underWay = true
          sends.push({ rows: fresh, apart: 'new' })
        }
        if (again.length > 0 && room() > 0) {
          suspect.again = true
          sends.push({ rows: failing.get(again[0]!.id)!.alone ? again.slice(0, 1) : again.filter((row) => !failing.get(row.id)!.alone), apart: 'again' })
        }
        forOthers ||= suspect.underWay || suspect.again
      }
      return sends
    },

    settle({ rows, apart }, { results, individually }, now) {
      const stored = rows.filter((_, i) => results[i]!.status === 'stored')
      stores += stored.length
      for (const { id } of stored) failing.delete(id)
      const took = new Set(stored.map((row) => row.topic))
      const failed: Failed[] = []
      const poison: Failed[] = []
      const lanes = new Set<string>()
      let refused = false
      for (const [i, row] of rows.entries()) {
        const { status, error = noReason } = results[i]!
        if (status === 'stored' || status === 'untried' || lanes.has(row.lane)) continue
        lanes.add(row.lane)
        const final = status === 'rejected' && error.retryable === false
        refused ||= final
        if (final) took.add(row.topic)
        failed.push({ row, error })
        const alone = apart !== undefined && (rows.length === 1 || !individually)
        if (count(row, final || stored.length > 0, individually, alone, now)) poison.push({ row, error })
      }
      for (const one of failing.values()) if (took.has(one.topic)) one.tried = false
      const ofTopics = Map.groupBy(rows, (row) => row.topic)
      const faulty = new Set(failed.map(({ row }) => row.topic))
      for (const [topic, { length }] of ofTopics) {
        const known = suspects.get(topic)
        if (!known && !faulty.has(topic)) continue
        const suspect: Suspect = known ?? { failures: 0, until: 0, size: batch, underWay: false, again: false, vain: 0, againUntil: 0 }
        if (apart === 'again') suspect.again = false
        else suspect.underWay = false
        const isVain = apart === 'again' && !took.has(topic) && failed.some(({ row }) => failing.get(row.id)!.until === 0)
        if (isVain) suspect.againUntil = now + fullJitter(++suspect.vain, backoff, random)
        else if (apart === 'again' || took.has(topic)) suspect.vain = 0
        if (took.has(topic)) {
          Object.assign(suspect, { failures: 0, until: 0 })
          if (apart !== 'again') suspect.size = Math.min(batch, suspect.size * 2)
        } else if (faulty.has(topic) && apart !== 'again') {
          suspect.failures++
          suspect.until = now + fullJitter(suspect.failures, backoff, random)
          // Sent with others it may be as innocent as they are.
          if (!individually) suspect.size = ofTopics.size > 1 ? length : Math.max(1, Math.floor(length / 2))
        }
        const isClean = suspect.failures === 0 && !suspect.underWay && !suspect.again && waiting(topic).length === 0
        if (isClean) trust(topic)
        else suspects.set(topic, suspect)
      }
      return { stored, failed, poison, refused }
    },

    attempts: (row) => failing.get(row.id)?.attempts ?? 0,
    forget: (row) => void failing.delete(row.id),
    forgetAllBut(partitions) {
      for (const [id, { partition }] of failing) if (!partitions.includes(partition)) failing.delete(id)
    },
    anew() {
      for (const one of failing.values()) Object.assign(one, { tried: false, until: 0 })
      for (const suspect of suspects.values()) Object.assign(suspect, { until: 0, againUntil: 0 })
      forOthers = false
    },
    calm: () => all().every(({ failures, vain }) => failures + vain === 0),
  }
}

/** For a publisher that refuses without saying why. */
const noReason: Failed['error'] = new Error('The publisher gave no reason')
