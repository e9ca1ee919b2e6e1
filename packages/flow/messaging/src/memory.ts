import { deferred } from '#internal/abort'
import type { Clock } from '#internal/clock'
import { type Checks, checkOptions, having, isClock, isString, milliseconds, oneOf } from '#internal/options'
import { oldestOf } from './administration.ts'
import type { BrokerDriver, Capabilities, Consumption, Delivery, Ownership, PublishResult } from './driver.ts'
import { closedError, groupNotFound, missedMessages, MessagingError, topicNotFound } from './errors.ts'
import { createLeases, type LeaseStore } from './leases.ts'
import { type MemoryCursor, type MemoryLog, type MemoryStore, type MemoryStoreInternals, memoryStore, type MemoryTopic } from './memory-store.ts'
import { offsetOf } from './partition.ts'

/** Which store, and what it is to behave like. */
export interface MemoryDriverOptions {
  /** Several drivers of one store are several clients of one broker. @default a store of its own */
  store?: MemoryStore | undefined
  /** Of a store of its own. */
  clock?: Clock | undefined
  /** Has the limits of a production broker, so that what passes here passes there. */
  emulate?: keyof typeof emulations | undefined
  /** How long a member that fell silent keeps its partitions. @default 10_000 */
  leaseMs?: number | undefined
  /** A restarted member of the same name takes its partitions back at once. @default random */
  member?: string | undefined
}

const capabilities: Capabilities & { readonly history: true } = {
  history: true,
  delay: { resolutionMs: 5, maxMs: 10 * 365 * 86_400_000 },
  dedupe: { windowMs: 300_000 },
  fencing: 'server',
  batchOrder: true,
  settles: 'watermark',
  ackDeadlineMs: undefined,
  maxMessageBytes: 64 * 1_048_576,
  publish: { maxBatch: 1_000, inFlight: Number.POSITIVE_INFINITY },
}

/** What each broker can do less than memory. */
const emulations: Record<'postgres', Partial<Capabilities>> = {
  postgres: { delay: { resolutionMs: 1_000, maxMs: 10 * 365 * 86_400_000 }, maxMessageBytes: 16 * 1_048_576 },
}

const checks: Checks<MemoryDriverOptions> = {
  store: having('messageCount', 'reset'),
  clock: isClock,
  emulate: oneOf(...Object.keys(emulations)),
  leaseMs: milliseconds(1),
  member: isString,
}

/** The embedded driver, and what tests do to it. */
export interface MemoryDriver extends BrokerDriver<Capabilities & { readonly history: true }> {
  readonly store: MemoryStore
  /** Cuts this client off as a lost connection or a killed process would: nothing is settled, nothing released, every call fails. */
  sever(): void
}

let clients = 0

/** The embedded broker: everything the engine can do, in this process, for development, tests and what may be lost with the process. */
export function memoryDriver(options: MemoryDriverOptions = {}): MemoryDriver {
  checkOptions('memoryDriver', options, checks)
  const { store: given, clock, emulate, leaseMs = 10_000, member: name } = options
  const store = (given ?? memoryStore({ clock })) as MemoryStoreInternals
  const client = name ?? `memory-${++clients}`
  const open = new Set<Consumption>()
  let members = 0
  let state: 'open' | 'severed' | 'closed' = 'open'

  const assertUsable = (): void => {
    if (state === 'closed') throw closedError('The memory driver')
    if (state === 'severed') throw new MessagingError('ERR_MESSAGING_CONNECTION', 'The connection to the memory store was cut', { retryable: true })
  }

  const driver: MemoryDriver = {
    name: 'memory',
    capabilities: { ...capabilities, ...(emulate ? emulations[emulate] : {}), history: true },
    store,
    sever: () => {
      state = 'severed'
    },
    publish: async (messages, { signal }) => {
      assertUsable()
      const failedKeys = new Set<string>()
      const results: PublishResult[] = []
      const waiting: Promise<unknown>[] = []
      messages.forEach((message, i) => {
        const lane = `${message.topic} ${message.key}`
        if (message.key !== undefined && failedKeys.has(lane)) {
          results[i] = { status: 'rejected', error: new Error('an earlier message of its key was refused') }
          return
        }
        const result = store.publish(message, signal)
        // Those behind one that waits for room wait behind it: it is refused only when they are too.
        if (result instanceof Promise) waiting.push(result.then((late) => (results[i] = late)))
        else {
          results[i] = result
          if (result.status !== 'stored' && message.key !== undefined) failedKeys.add(lane)
        }
      })
      await Promise.all(waiting)
      return results
    },

    consume: async (topic, group, owner) => {
      assertUsable()
      const one = store.topic(topic)
      const consumption =
        group === undefined
          ? broadcast(store, one, owner)
          : await member(store, one, group, `${client}/${++members}`, owner, { leaseMs, assertUsable, severed: () => state === 'severed' })
      open.add(consumption)
      return consumption
    },

    ping: async () => {
      assertUsable()
      return { details: { topics: [...store.all()].length } }
    },
    close: async () => {
      if (state === 'open') await Promise.all([...open].map((consumption) => consumption.close()))
      state = 'closed'
    },

    admin: {
      createTopic: async (topic, spec) => {
        assertUsable()
        store.create(topic, spec)
      },
      deleteTopic: async (topic) => {
        assertUsable()
        store.remove(topic)
      },
      topics: async (topic) => {
        assertUsable()
        return [...store.all()].filter((one) => topic === undefined || one.name === topic).map((one) => ({ topic: one.name, spec: one.spec }))
      },
      createGroup: async (topic, group, start) => {
        assertUsable()
        const one = store.topic(topic)
        if (one.groups.has(group)) return
        const cursors = one.logs.map((log, partition) => cursorAt(store.startOffset(log, start, partition)))
        one.groups.set(group, { cursors, members: new Map() })
      },
      deleteGroup: async (topic, group) => {
        assertUsable()
        store.find(topic)?.groups.delete(group)
        store.roomFreed(topic)
        store.wake(topic)
      },
      groups: async (topic) => {
        assertUsable()
        const one = store.topic(topic)
        return [...one.groups].map(([group, { cursors, members: alive }]) => ({
          group,
          members: [...alive.values()].filter((until) => until > store.clock.now()).length,
          lag:
            one.delayed.length + cursors.reduce((sum, cursor, p) => sum + one.logs[p]!.next - Math.max(cursor.next, one.logs[p]!.base) - cursor.above.size, 0),
          oldestAt: oldestOf(cursors.map((cursor, p) => one.logs[p]!.entries.find(({ offset }) => offset >= cursor.next && !cursor.above.has(offset))?.at)),
          approximate: false,
        }))
      },
    },

    log: {
      read: async (topic, partition, after, limit, limitBytes) => {
        assertUsable()
        const log = store.topic(topic).logs[partition]
        if (!log) throw new RangeError(`Topic ${topic} has no partition ${partition}`)
        const past = after === undefined ? -1 : offsetOf(after)
        const from = log.entries.findIndex((entry) => entry.offset > past)
        if (from < 0) return []
        let bytes = 0
        const page = log.entries.slice(from, from + limit)
        const over = page.findIndex(({ message }, i) => (bytes += message.value.length) > limitBytes && i > 0)
        return page.slice(0, over < 0 ? limit : over).map(({ offset, message }) => ({ position: String(offset), message }))
      },
      seek: async (topic, group, to) => {
        assertUsable()
        const one = store.topic(topic)
        const found = one.groups.get(group)
        if (!found) throw groupNotFound(topic, group)
        const busy = [...found.members.values()].some((until) => until > store.clock.now())
        if (busy) throw new MessagingError('ERR_MESSAGING_GROUP_BUSY', `Group ${group} on ${topic} has members: close them first`, { retryable: true })
        found.cursors = found.cursors.map((cursor, p) => ({ ...cursorAt(store.startOffset(one.logs[p]!, to, p)), epoch: cursor.epoch }))
        store.roomFreed(topic)
      },
      marks: async (topic) => {
        assertUsable()
        return new Map(store.topic(topic).marks)
      },
      mark: async (topic, marks) => {
        assertUsable()
        store.mark(store.topic(topic), marks)
      },
    },
  }
  return driver
}

function cursorAt(next: number): MemoryCursor {
  return { next, above: new Set(), handed: next, epoch: 0, owner: undefined, expiresAt: 0, suspectBefore: 0, starts: new Map() }
}

/** Waits for something to read from any wanted partition, and hands it over. */
async function take(store: MemoryStoreInternals, topic: MemoryTopic, signal: AbortSignal, read: () => Delivery[]): Promise<readonly Delivery[]> {
  for (;;) {
    if (signal.aborted) return []
    if (store.find(topic.name) !== topic) throw topicNotFound(topic.name)
    const deliveries = read()
    if (deliveries.length > 0) return deliveries
    const news = deferred()
    const unwatch = store.watch(topic.name, () => news.resolve())
    const onAbort = (): void => news.resolve()
    signal.addEventListener('abort', onAbort, { once: true })
    await news.promise
    signal.removeEventListener('abort', onAbort)
    unwatch()
  }
}

/** Everything from now on, for one listener alone. */
function broadcast(store: MemoryStoreInternals, topic: MemoryTopic, owner: Ownership): Consumption {
  const positions = topic.logs.map((log) => log.next)
  topic.logs.forEach((_, partition) => owner.assigned(partition, 1))
  return {
    fetch: (wants, { signal }) =>
      take(store, topic, signal, () => {
        // Before anything is taken: an error carries no deliveries.
        for (const partition of wants.keys()) {
          const { base } = topic.logs[partition]!
          const missed = base - positions[partition]!
          if (missed <= 0) continue
          positions[partition] = base
          throw missedMessages(topic.name, partition, missed)
        }
        const deliveries: Delivery[] = []
        for (const [partition, n] of wants) {
          const log = topic.logs[partition]!
          const from = positions[partition]!
          for (const entry of log.entries.slice(from - log.base, from - log.base + n)) {
            deliveries.push({ partition, epoch: 1, position: String(entry.offset), message: entry.message, suspect: false })
            positions[partition] = entry.offset + 1
          }
        }
        return deliveries
      }),
    begin: async () => 1,
    settle: async (progress) => progress.map(() => 'settled'),
    extend: async () => undefined,
    release: async () => undefined,
    close: async () => undefined,
  }
}

/** One member of a group: reads what it holds the lease of. */
async function member(
  store: MemoryStoreInternals,
  topic: MemoryTopic,
  group: string,
  name: string,
  owner: Ownership,
  { leaseMs, assertUsable, severed }: { leaseMs: number; assertUsable: () => void; severed: () => boolean },
): Promise<Consumption> {
  const { clock } = store
  const found = (): { cursors: MemoryCursor[]; members: Map<string, number> } => {
    assertUsable()
    const there = topic.groups.get(group)
    if (!there) throw groupNotFound(topic.name, group)
    return there
  }
  const live = (cursor: MemoryCursor): boolean => cursor.owner !== undefined && cursor.expiresAt > clock.now()
  const mine = (cursor: MemoryCursor | undefined, epoch: number): cursor is MemoryCursor => cursor?.owner === name && cursor.epoch === epoch && live(cursor)
  /** Where this member reads on, by partition; since the claim. */
  const reading = new Map<number, number>()

  const leaseStore: LeaseStore = {
    beat: async (held, ttlMs) => {
      const { cursors, members } = found()
      members.set(name, clock.now() + ttlMs)
      for (const [partition, epoch] of held) if (mine(cursors[partition], epoch)) cursors[partition].expiresAt = clock.now() + ttlMs
      const alive = [...members].filter(([, until]) => until > clock.now()).map(([id]) => id)
      return {
        members: alive.sort(),
        leases: cursors.map((cursor, partition) => ({ partition, owner: live(cursor) ? cursor.owner : undefined, epoch: cursor.epoch })),
      }
    },
    claim: async (partition, ttlMs) => {
      const cursor = found().cursors[partition]!
      if (live(cursor) && cursor.owner !== name) return undefined
      if (cursor.owner !== undefined) cursor.suspectBefore = cursor.handed
      cursor.owner = name
      cursor.expiresAt = clock.now() + ttlMs
      reading.set(partition, cursor.next)
      return ++cursor.epoch
    },
    release: async (partition, epoch) => {
      const cursor = found().cursors[partition]
      if (cursor?.owner === name && cursor.epoch === epoch) cursor.owner = undefined
    },
    leave: async () => void found().members.delete(name),
  }
  const leases = createLeases(leaseStore, name, owner, { clock, leaseMs, onRenewed: (_, late) => late && store.wake(topic.name) })
  await leases.start()

  const readOne = (log: MemoryLog, cursor: MemoryCursor, partition: number, n: number, into: Delivery[]): void => {
    let at = Math.max(reading.get(partition)!, log.base)
    for (let taken = 0; taken < n && at < log.next; at++) {
      if (cursor.above.has(at)) continue
      const entry = log.entries[at - log.base]!
      into.push({ partition, epoch: cursor.epoch, position: String(at), message: entry.message, suspect: at < cursor.suspectBefore })
      taken++
    }
    reading.set(partition, at)
    cursor.handed = Math.max(cursor.handed, at)
  }

  return {
    fetch: (wants, { signal }) =>
      take(store, topic, signal, () => {
        const { cursors } = found()
        const deliveries: Delivery[] = []
        for (const [partition, n] of wants) {
          const cursor = cursors[partition]
          const epoch = leases.held(partition)
          if (epoch !== undefined && mine(cursor, epoch)) readOne(topic.logs[partition]!, cursor, partition, n, deliveries)
        }
        return deliveries
      }),
    begin: async ({ partition, epoch, position }) => {
      const cursor = found().cursors[partition]
      if (!mine(cursor, epoch))
        throw new MessagingError('ERR_MESSAGING_OWNERSHIP_LOST', `Partition ${partition} of ${topic.name} was lost`, { retryable: true })
      const starts = (cursor.starts.get(Number(position)) ?? 0) + 1
      cursor.starts.set(Number(position), starts)
      return starts
    },
    settle: async (progress) => {
      const { cursors } = found()
      const answers = progress.map(({ partition, epoch, watermark, above }) => {
        const cursor = cursors[partition]
        if (!mine(cursor, epoch)) return 'stale' as const
        if (watermark) cursor.next = Math.max(cursor.next, Number(watermark.position) + 1)
        // What an earlier owner had settled beyond the watermark was not handed over again, so this one does not speak of it.
        for (const delivery of above) cursor.above.add(Number(delivery.position))
        while (cursor.above.delete(cursor.next)) cursor.next++
        for (const offset of cursor.above) if (offset < cursor.next) cursor.above.delete(offset)
        for (const offset of cursor.starts.keys()) if (offset < cursor.next) cursor.starts.delete(offset)
        return 'settled' as const
      })
      store.roomFreed(topic.name)
      return answers
    },
    extend: async () => undefined,
    release: (partition, epoch) => leases.release(partition, epoch),
    close: async () => {
      // After `sever` it cannot leave, but it stops renewing.
      await leases.close().catch((error: unknown) => {
        if (!severed()) throw error
      })
    },
  }
}
