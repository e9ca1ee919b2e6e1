import { createHash, randomUUID } from 'node:crypto'
import { fullJitter } from '#internal/backoff'
import type { Clock } from '#internal/clock'
import type { OutgoingMessage, PublishResult } from '../driver.ts'
import { publishRefused, publishUnknown, topicNotFound } from '../errors.ts'
import { murmur2, partitionOf } from '../partition.ts'
import type { Catalog, TopicEntry } from './catalog.ts'
import { type Connection, StatementError } from './connection.ts'
import { type Columns, toColumns } from './record.ts'
import type { Statements } from './statements.ts'

export interface PublisherDeps {
  connection: Connection
  sql: Statements
  catalog: Catalog
  clock: Clock
  dedupeWindowMs: number
  /** Tells who waits in this process that a partition grew: `next` is the offset after the last. */
  grew(pid: number, next: number): void
  /** A message will be due. */
  delayed(due: number): void
}

export type Publish = (messages: readonly OutgoingMessage[], signal: AbortSignal) => Promise<readonly PublishResult[]>

/** One statement at a time under one name, numbered: repeating a number that was taken stores nothing. As Kafka's idempotent producer does it. */
interface Producer {
  readonly id: string
  seq: number
}

/** A message on its way, and where it goes. */
interface Item {
  readonly index: number
  readonly message: OutgoingMessage
  readonly columns: Columns
  readonly digest: string | undefined
  pid: number
  partition: number
}

/** What the server says: where each partition's messages begin, and which were kept where that was in question; or why it stored nothing. */
interface Answer {
  bases?: Record<string, number> | null
  kept?: readonly [n: number, later: boolean][]
  /** An earlier try of this very batch was stored. */
  repeated?: true
  /** The partitions that are still there. */
  found?: readonly number[]
}

const retryWaits = { initialMs: 20, maxMs: 1_000, multiplier: 2 }

export function createPublish({ connection, sql, catalog, clock, dedupeWindowMs, grew, delayed }: PublisherDeps): Publish {
  const idle: Producer[] = []
  let spread = Math.floor(Math.random() * 1_024)

  /** Puts each item on a partition; gives those whose topic is not there. */
  const place = async (items: readonly Item[], signal: AbortSignal): Promise<Item[]> => {
    const unknown = new Set<string>()
    for (const { message } of items) if (!catalog.known(message.topic)) unknown.add(message.topic)
    if (unknown.size > 0) await catalog.look([...unknown], signal)
    return items.filter((item) => {
      const topic = catalog.known(item.message.topic)
      if (!topic) return true
      item.partition = partitionFor(item.message, topic)
      item.pid = topic.pids[item.partition]!
      return false
    })
  }

  const partitionFor = ({ key, rawKey }: OutgoingMessage, { spec: { partitions } }: TopicEntry): number => {
    if (key !== undefined) return partitionOf(key, partitions)
    return (rawKey ? murmur2(rawKey) & 0x7fffffff : spread++) % partitions
  }

  const store = async (items: readonly Item[], producer: Producer, signal: AbortSignal): Promise<Answer> => {
    const special = items.some(({ message, digest }) => message.deliverAt !== undefined || digest !== undefined)
    const counts = new Map<number, number>()
    const starts: number[] = []
    let start = 1
    const ranks = items.map(({ pid, message }) => {
      const rank = counts.get(pid) ?? 0
      counts.set(pid, rank + 1)
      starts.push(start)
      start += message.value.length
      return rank
    })
    const who = [producer.id, String(producer.seq), array([...counts.keys()])]
    const where = array(items.map(({ pid }) => pid))
    const what = [
      JSON.stringify(items.map(({ columns }) => columns.id)),
      JSON.stringify(items.map(({ columns }) => columns.key)),
      JSON.stringify(items.map(({ columns }) => columns.headers)),
      array(items.map(({ message }) => message.timestamp)),
      array(starts),
      array(items.map(({ message }) => (message.tombstone ? 'NULL' : message.value.length))),
      Buffer.concat(items.map(({ message }) => message.value)),
    ]
    const rows = special
      ? connection.run<{ answer: string }>(
          sql.publishSpecial,
          [
            ...who,
            where,
            ...what,
            array(items.map(({ message }) => message.deliverAt ?? 'NULL')),
            array(items.map(({ digest }) => (digest === undefined ? 'NULL' : `"\\\\x${digest}"`))),
            String(dedupeWindowMs),
          ],
          { signal },
        )
      : connection.run<{ answer: string }>(sql.publish, [...who, array([...counts.values()]), where, array(ranks), ...what], { signal })
    return JSON.parse((await rows)[0]!.answer) as Answer
  }

  /** What a stored batch means for each of its messages. */
  const settle = (items: readonly Item[], { repeated, bases, kept }: Answer, results: PublishResult[]): void => {
    const ends = new Map<number, number>()
    const later = kept && new Map(kept)
    items.forEach(({ index, pid, partition, message }, n) => {
      if (repeated) results[index] = { status: 'stored' }
      else if (later && !later.has(n)) results[index] = { status: 'stored', duplicate: true }
      else if (later?.get(n)) {
        results[index] = { status: 'stored', partition }
        delayed(message.deliverAt!)
      } else {
        const offset = ends.get(pid) ?? bases![pid]!
        ends.set(pid, offset + 1)
        results[index] = { status: 'stored', partition, position: String(offset) }
      }
    })
    for (const [pid, next] of ends) grew(pid, next)
  }

  const attempt = async (all: readonly Item[], producer: Producer, signal: AbortSignal, results: PublishResult[]): Promise<void> => {
    let items = all
    let mayBeStored = false
    let looked = false
    for (let n = 1; items.length > 0; n++) {
      let storing = false
      try {
        const missing = await place(items, signal)
        if (missing.length > 0) {
          for (const { index, message } of missing) results[index] = { status: 'rejected', error: topicNotFound(message.topic) }
          items = items.filter((item) => !missing.includes(item))
          continue
        }
        storing = true
        const answer = await store(items, producer, signal)
        if (!answer.found) return settle(items, answer, results)
        const found = new Set(answer.found)
        const gone = items.filter(({ pid }) => !found.has(pid))
        // A topic was deleted since it was looked up, and nothing was stored: look again, once.
        for (const { message } of gone) catalog.forget(message.topic)
        if (looked) for (const { index, message } of gone) results[index] = { status: 'rejected', error: topicNotFound(message.topic) }
        if (looked) items = items.filter((item) => !gone.includes(item))
        looked = true
      } catch (error) {
        const failure = error instanceof StatementError ? error : undefined
        if (storing && (!failure || failure.executed === 'unknown')) mayBeStored = true
        if (failure?.retryable) await clock.sleep(fullJitter(n, retryWaits), { signal }).catch(() => undefined)
        if (failure?.retryable && !signal.aborted) continue
        for (const { index, message } of items)
          results[index] = mayBeStored
            ? { status: 'unknown', error: publishUnknown(message.topic, error) }
            : { status: 'rejected', error: publishRefused(message.topic, error) }
        return
      }
    }
  }

  return async (messages, signal) => {
    const results: PublishResult[] = Array.from({ length: messages.length })
    const items = check(messages, results)
    const first = new Map<string, number>()
    const doubles: [index: number, of: number][] = []
    const unique = items.filter(({ digest, index, message }) => {
      if (digest === undefined) return true
      const id = `${message.topic} ${digest}`
      const of = first.get(id)
      if (of !== undefined) doubles.push([index, of])
      else first.set(id, index)
      return of === undefined
    })
    const producer = idle.pop() ?? { id: randomUUID(), seq: 0 }
    const failed = new Set<string>()
    for (const part of parts(unique)) {
      const items = part.filter(({ index, message }) => {
        const behind = message.key !== undefined && failed.has(lane(message))
        if (behind) results[index] = behindFailed(message)
        return !behind
      })
      producer.seq++
      await attempt(items, producer, signal, results)
      for (const { index, message } of items) if (message.key !== undefined && results[index]!.status !== 'stored') failed.add(lane(message))
    }
    idle.push(producer)
    for (const [index, of] of doubles) results[index] = results[of]!.status === 'stored' ? { status: 'stored', duplicate: true } : results[of]!
    return results
  }
}

/** A statement's parameters must stay far below the gigabyte that PostgreSQL takes. */
const statementBytes = 8_388_608

function* parts(items: readonly Item[]): Generator<readonly Item[]> {
  let from = 0
  let bytes = 0
  for (let i = 0; i < items.length; i++) {
    const { headers, value } = items[i]!.message
    let size = value.length
    for (const name in headers) size += headers[name]!.length
    if (i > from && bytes + size > statementBytes) {
      yield items.slice(from, i)
      from = i
      bytes = 0
    }
    bytes += size
  }
  if (from < items.length) yield from === 0 ? items : items.slice(from)
}

const lane = ({ topic, key }: OutgoingMessage): string => `${topic} ${key}`
const behindFailed = ({ topic }: OutgoingMessage): PublishResult => ({
  status: 'rejected',
  error: publishRefused(topic, new RangeError('an earlier message of its key was not stored'), true),
})

/** What is wrong with one message fails that message, and the later ones of its key. */
function check(messages: readonly OutgoingMessage[], results: PublishResult[]): Item[] {
  const failed = new Set<string>()
  const items: Item[] = []
  messages.forEach((message, index) => {
    const { topic, key, dedupeId } = message
    try {
      if (key !== undefined && failed.has(lane(message))) {
        results[index] = behindFailed(message)
        return
      }
      const digest = dedupeId === undefined ? undefined : createHash('sha256').update(JSON.stringify(dedupeId)).digest('hex')
      items.push({ index, message, columns: toColumns(message), digest, pid: -1, partition: -1 })
    } catch (error) {
      if (key !== undefined) failed.add(lane(message))
      results[index] = { status: 'rejected', error: publishRefused(topic, error, false) }
    }
  })
  return items
}

const array = (items: readonly (number | string)[]): string => `{${items.join(',')}}`
