import type { Clock } from '#internal/clock'
import { systemClock } from '#internal/clock'
import { type Checks, checkOptions, integer, isClock, isFunction, number, oneOf } from '#internal/options'
import type { LetterMark, OutgoingMessage, PublishResult, Start, StoredMessage, TopicSpec } from './driver.ts'
import { MessagingError, topicNotFound, topicTaken } from './errors.ts'
import { uniqueName } from './names.ts'
import { offsetOf, partitionOf } from './partition.ts'

/** Bounds of a memory store. */
export interface MemoryStoreOptions {
  clock?: Clock | undefined
  /** A topic's messages, read ones that are kept for history included. @default 100_000 */
  maxMessages?: number | undefined
  /** What a publish meets when that many are unread by some group. @default 'reject', a retryable `ERR_MESSAGING_BACKPRESSURE` */
  overflow?: 'reject' | 'wait' | 'drop-oldest' | undefined
  /**
   * Told how many unread messages `drop-oldest`, or a topic's `maxAgeMs`, removed; and of a topic without groups, which is never full since nobody would ever
   * make room in it, how many went for newer ones.
   */
  onRemovedUnread?: ((topic: string, count: number) => void) | undefined
  /** How long a `dedupeId` is remembered. @default 300_000 */
  dedupeWindowMs?: number | undefined
}

export interface MemoryEntry {
  readonly offset: number
  readonly at: number
  readonly message: StoredMessage
}

/** One partition: entries in order, from offset `base` to before `next`; without gaps but in kept topics. */
export interface MemoryLog {
  base: number
  next: number
  entries: MemoryEntry[]
}

/** Where a group stands in a partition, and who may move it. */
export interface MemoryCursor {
  /** The first offset not settled. */
  next: number
  above: Set<number>
  /** The first offset that nobody was handed. */
  handed: number
  epoch: number
  owner: string | undefined
  expiresAt: number
  /** Offsets below this were in the hands of an owner that did not let go. */
  suspectBefore: number
  starts: Map<number, number>
}

export interface MemoryGroup {
  cursors: MemoryCursor[]
  /** Members and until when they live. */
  members: Map<string, number>
}

export interface MemoryTopic {
  readonly name: string
  readonly spec: TopicSpec
  logs: MemoryLog[]
  groups: Map<string, MemoryGroup>
  delayed: { due: number; message: OutgoingMessage }[]
  marks: Map<string, Omit<LetterMark, 'letterId'>>
  dedupe: Map<string, number>
  /** For keyless messages. */
  spread: number
  /** Publishes that wait for room, in turn. */
  waiting: Waiting[]
}

interface Waiting {
  readonly message: OutgoingMessage
  answer(result: PublishResult): void
}

/** The place where memory drivers keep messages: several drivers of one store are several clients of one broker. It lives as long as somebody holds it. */
export interface MemoryStore {
  readonly clock: Clock
  /** Messages stored on a topic, read or not, without delayed ones. */
  messageCount(topic: string): number
  /** Forgets everything. */
  reset(): void
}

/** What drivers use of a store. */
export interface MemoryStoreInternals extends MemoryStore {
  topic(name: string): MemoryTopic
  find(name: string): MemoryTopic | undefined
  all(): Iterable<MemoryTopic>
  create(name: string, spec: TopicSpec): void
  remove(name: string): void
  publish(message: OutgoingMessage, signal: AbortSignal): PublishResult | Promise<PublishResult>
  startOffset(log: MemoryLog, start: Start, partition: number): number
  mark(topic: MemoryTopic, marks: readonly LetterMark[]): void
  /** Calls back at every append to the topic, until the function it gives is called. */
  watch(topic: string, wake: () => void): () => void
  /** Calls those who watch the topic. */
  wake(topic: string): void
  /** Something was read, or need not be any more: who waits for room may go on. */
  roomFreed(topic: string): void
}

const checks: Checks<MemoryStoreOptions> = {
  clock: isClock,
  maxMessages: integer(1),
  overflow: oneOf('reject', 'wait', 'drop-oldest'),
  onRemovedUnread: isFunction,
  dedupeWindowMs: number(0),
}

/** Makes a place where memory drivers keep messages. */
export function memoryStore(options: MemoryStoreOptions = {}): MemoryStore {
  checkOptions('memoryStore', options, checks)
  const { clock = systemClock, maxMessages = 100_000, overflow = 'reject', onRemovedUnread, dedupeWindowMs = 300_000 } = options
  const topics = new Map<string, MemoryTopic>()
  const watchers = new Map<string, Set<() => void>>()
  let alarm: AbortController | undefined

  const wake = (name: string): void => {
    for (const one of watchers.get(name) ?? []) one()
  }

  const topic = (name: string): MemoryTopic => {
    const found = topics.get(name)
    if (!found) throw topicNotFound(name)
    return found
  }

  const unreadFrom = (one: MemoryTopic, partition: number): number => {
    let lowest = Infinity
    for (const group of one.groups.values()) lowest = Math.min(lowest, group.cursors[partition]!.next)
    return lowest
  }

  const size = (one: MemoryTopic): number => one.logs.reduce((sum, log) => sum + log.entries.length, 0)

  /** Makes room for one more: first what every group has read, then, where asked, what none may have read. */
  const makeRoom = (one: MemoryTopic): boolean => {
    if (size(one) < maxMessages || one.spec.keep) return true
    const oldest = one.logs
      .map((log, partition) => ({ log, partition, at: log.entries[0]?.at ?? Infinity, read: log.base < unreadFrom(one, partition) }))
      .filter(({ log }) => log.entries.length > 0)
      .sort((a, b) => Number(b.read) - Number(a.read) || a.at - b.at)[0]
    if (!oldest || (!oldest.read && overflow !== 'drop-oldest')) return false
    if (oldest.read) {
      // In one go: half of what is read in that partition.
      const readable = Math.min(oldest.log.entries.length, unreadFrom(one, oldest.partition) - oldest.log.base)
      const n = Math.max(1, readable >> 1)
      cut(oldest.log, n)
      if (one.groups.size === 0) onRemovedUnread?.(one.name, n)
    } else {
      cut(oldest.log, 1)
      onRemovedUnread?.(one.name, 1)
    }
    return true
  }

  const cut = (log: MemoryLog, n: number): void => {
    log.entries.splice(0, n)
    log.base += n
  }

  const expire = (one: MemoryTopic): void => {
    if (one.spec.maxAgeMs === undefined) return
    const before = clock.now() - one.spec.maxAgeMs
    one.logs.forEach((log, partition) => {
      let n = 0
      while (n < log.entries.length && log.entries[n]!.at <= before) n++
      const unread = Math.max(0, log.base + n - Math.max(log.base, unreadFrom(one, partition)))
      if (n > 0) cut(log, n)
      if (unread > 0 && one.groups.size > 0) onRemovedUnread?.(one.name, unread)
    })
  }

  const append = (one: MemoryTopic, message: OutgoingMessage): PublishResult => {
    const partition = message.key === undefined ? one.spread++ % one.logs.length : partitionOf(message.key, one.logs.length)
    const log = one.logs[partition]!
    const offset = log.next++
    // The publisher may reuse its buffer.
    const stored: StoredMessage = { ...message, idStable: true, value: Buffer.from(message.value) }
    log.entries.push({ offset, at: clock.now(), message: stored })
    wake(one.name)
    return { status: 'stored', partition, position: String(offset) }
  }

  /** When a message that somebody waits for to go will be too old. */
  const roomAt = ({ waiting, logs, spec }: MemoryTopic): number =>
    waiting.length === 0 || spec.maxAgeMs === undefined ? Infinity : Math.min(...logs.map((log) => log.entries[0]?.at ?? Infinity)) + spec.maxAgeMs

  /** One timer for the earliest delayed message of all topics, or the earliest end of one that is in the way. */
  const setAlarm = (): void => {
    alarm?.abort()
    const earliest = Math.min(...[...topics.values()].map((one) => Math.min(one.delayed[0]?.due ?? Infinity, roomAt(one))))
    if (earliest === Infinity) return
    const mine = (alarm = new AbortController())
    clock.sleep(Math.max(0, earliest - clock.now()), { signal: mine.signal, background: true }).then(ring, () => undefined)
  }

  const ring = (): void => {
    for (const one of topics.values()) {
      let n = 0
      while (n < one.delayed.length && one.delayed[n]!.due <= clock.now()) append(one, one.delayed[n++]!.message)
      one.delayed.splice(0, n)
      admit(one)
    }
    setAlarm()
  }

  const isDuplicate = (one: MemoryTopic, id: string): boolean => {
    const now = clock.now()
    for (const [seen, until] of one.dedupe) {
      if (until > now) break
      one.dedupe.delete(seen)
    }
    if (one.dedupe.has(id)) return true
    one.dedupe.set(id, now + dedupeWindowMs)
    return false
  }

  const publish = (message: OutgoingMessage, signal: AbortSignal): PublishResult | Promise<PublishResult> => {
    const one = topics.get(message.topic)
    if (!one) return { status: 'rejected', error: topicNotFound(message.topic) }
    admit(one)
    if (one.waiting.length > 0 || !makeRoom(one)) {
      if (overflow === 'wait') return waitForRoom(one, message, signal)
      const full = `Topic ${message.topic} holds ${maxMessages} unread messages`
      return { status: 'rejected', error: new MessagingError('ERR_MESSAGING_BACKPRESSURE', full, { retryable: true }) }
    }
    return put(one, message)
  }

  const put = (one: MemoryTopic, message: OutgoingMessage): PublishResult => {
    if (message.dedupeId !== undefined && isDuplicate(one, message.dedupeId)) return { status: 'stored', duplicate: true }
    if (message.deliverAt !== undefined && message.deliverAt > clock.now()) {
      const at = one.delayed.findLastIndex((other) => other.due <= message.deliverAt!) + 1
      one.delayed.splice(at, 0, { due: message.deliverAt, message: { ...message, value: Buffer.from(message.value) } })
      if (at === 0) setAlarm()
      return { status: 'stored' }
    }
    return append(one, message)
  }

  const waitForRoom = (one: MemoryTopic, message: OutgoingMessage, signal: AbortSignal): Promise<PublishResult> =>
    new Promise((resolve) => {
      const giveUp = (): void => {
        one.waiting.splice(one.waiting.indexOf(mine), 1)
        resolve({ status: 'rejected', error: signal.reason })
      }
      const answer = (result: PublishResult): void => {
        signal.removeEventListener('abort', giveUp)
        resolve(result)
      }
      const mine = { message, answer }
      one.waiting.push(mine)
      if (signal.aborted) return giveUp()
      signal.addEventListener('abort', giveUp, { once: true })
      if (one.waiting.length === 1 && one.spec.maxAgeMs !== undefined) setAlarm()
    })

  /** Removes what is too old, then stores what waits, in turn, as far as there is room. */
  const admit = (one: MemoryTopic): void => {
    expire(one)
    while (one.waiting.length > 0 && makeRoom(one)) {
      const { message, answer } = one.waiting.shift()!
      answer(put(one, message))
    }
  }

  const drop = (one: MemoryTopic): void => {
    topics.delete(one.name)
    for (const { answer } of one.waiting.splice(0)) answer({ status: 'rejected', error: topicNotFound(one.name) })
  }

  const store: MemoryStoreInternals = {
    clock,
    messageCount: (name) => size(topic(name)),
    reset: () => {
      for (const one of topics.values()) drop(one)
      alarm?.abort()
    },
    topic: (name) => {
      const one = topic(name)
      admit(one)
      return one
    },
    find: (name) => topics.get(name),
    all: () => topics.values(),
    create: (name, spec) => {
      const twin = [...topics.values()].find((other) => uniqueName(other.name) === uniqueName(name))
      const taken = twin && topicTaken(name, spec, { ...twin.spec, name: twin.name })
      if (taken) throw taken
      if (twin) return
      const logs = Array.from({ length: spec.partitions }, () => ({ base: 0, next: 0, entries: [] }))
      topics.set(name, { name, spec, logs, groups: new Map(), delayed: [], marks: new Map(), dedupe: new Map(), spread: 0, waiting: [] })
    },
    remove: (name) => {
      const one = topics.get(name)
      if (one) drop(one)
      wake(name)
      setAlarm()
    },
    publish,
    startOffset: (log, start, partition) => {
      if (start === 'earliest') return log.base
      if (start === 'latest') return log.next
      if (start instanceof Date) return log.entries.find((entry) => entry.message.timestamp >= start.getTime())?.offset ?? log.next
      const position = start.get(partition)
      return position === undefined ? log.base : Math.max(log.base, Math.min(log.next, offsetOf(position)))
    },
    mark: (one, marks) => {
      for (const { letterId, mark, position } of marks) {
        const marked = one.marks.get(letterId)
        const isLater = marked && Number(marked.position) > Number(position)
        if (mark !== 'discarded') {
          one.marks.set(letterId, { mark, position: isLater ? marked.position : position })
          continue
        }
        if (!isLater) one.marks.delete(letterId)
        const log = one.logs[0]!
        const at = log.entries.findIndex((entry) => entry.offset === Number(position))
        if (at >= 0) log.entries.splice(at, 1)
      }
    },
    watch: (name, call) => {
      let set = watchers.get(name)
      if (!set) watchers.set(name, (set = new Set()))
      set.add(call)
      return () => void set.delete(call)
    },
    wake,
    roomFreed: (name) => {
      const one = topics.get(name)
      if (one) admit(one)
    },
  }
  return store
}
