import type { Clock } from '#internal/clock'
import { Fifo } from '#internal/fifo'
import { checkOptions, shown } from '#internal/options'
import { uuidv7 } from '#internal/uuid'
import type { BrokerDriver, OutgoingMessage, PublishResult } from './driver.ts'
import { closedError, MessagingError, publishRefused, publishUnknown, unsupported } from './errors.ts'
import { type Hooks, tell, type Tracing } from './hooks.ts'
import { checkMessage, type MessageInput } from './message.ts'
import { checkHeaders, checkTopic } from './names.ts'
import { publishChecks } from './options.ts'
import type { Topology } from './topology.ts'

/** How long to wait for the broker, and when to give up. */
export interface PublishOptions {
  /** Rejects with its reason; the message may be stored all the same. */
  signal?: AbortSignal | undefined
  /** How long to wait for the broker's confirmation. @default 30_000 */
  timeoutMs?: number | undefined
}

/** The broker confirmed that it stored the message. */
export interface Published {
  readonly id: string
  readonly partition: number | undefined
  readonly position: string | undefined
  /** A message with the same `dedupeId` was there already; this one was not stored again. */
  readonly duplicate: boolean
}

/** One message of a batch: stored, certainly not stored, or not known. */
export type BatchResult = { readonly id: string } & (
  | ({ readonly status: 'stored' } & Omit<Published, 'id'>)
  | { readonly status: 'rejected' | 'unknown'; readonly error: MessagingError }
)

export interface PublisherOptions {
  clock: Clock
  hooks: Hooks
  tracing: Tracing | undefined
  topology: Topology
  maxMessageBytes: number
  maxPending: number
  reserved: readonly string[]
}

interface Pending {
  readonly message: OutgoingMessage
  readonly deadline: number
  state: 'queued' | 'sent' | 'settled'
  /** Shared by the messages of one key in one batch: behind the first that failed, none goes out. */
  readonly lane: Lane | undefined
  /** Place in the batch. */
  readonly place: number
  /** Counted in the lane's `outstanding`. */
  taken: boolean
  settle(result: PublishResult): void
}

/** The messages of one key in one `publishBatch`. */
interface Lane {
  /** The place of the first that failed. */
  brokenAt: number
  /** On their way to the driver, or there, without an answer. */
  outstanding: number
}

export interface Publisher {
  publish(input: MessageInput, options?: PublishOptions): Promise<Published>
  publishBatch(inputs: readonly MessageInput[], options?: PublishOptions): Promise<readonly BatchResult[]>
  /** For the engine's own messages, which are checked already. */
  send(message: OutgoingMessage, timeoutMs?: number): Promise<PublishResult>
  readonly published: number
  /** Takes nothing more, waits for what is under way until `deadlineMs`, then settles the rest as it stands. */
  close(deadlineMs: number): Promise<void>
}

/**
 * Checks messages, gathers those published in the same turn into batches as large as the driver likes, and gives each its own answer in time.
 * Order: a message is handed to the driver after all that were published before it.
 */
export function createPublisher(driver: BrokerDriver, options: PublisherOptions): Publisher {
  const { clock, hooks, tracing, topology } = options
  const { capabilities } = driver
  const { maxBatch, inFlight: maxInFlight } = capabilities.publish
  const queue = new Fifo<Pending>()
  const pending = new Set<Pending>()
  let inFlight = 0
  let published = 0
  let scheduled = false
  let sweeping: { until: number; nudge: AbortController } | undefined
  let closed = false

  const checked = (input: MessageInput): OutgoingMessage => {
    checkMessage(input)
    checkTopic(input.topic, options.reserved)
    const { topic, key, value, tombstone = false, dedupeId, delayMs } = input
    if (tombstone && value.length > 0) throw new TypeError(`A tombstone has no body, got ${value.length} bytes for ${topic}`)
    if (dedupeId !== undefined && !capabilities.dedupe) throw unsupported('dedupeId', driver.name)
    const now = clock.now()
    const deliverAt = input.deliverAt ?? (delayMs === undefined ? undefined : now + delayMs)
    if (deliverAt !== undefined) checkDelay(deliverAt - now, topic)
    const headers = checkHeaders(input.headers ?? {})
    const message: OutgoingMessage = {
      id: input.id ?? uuidv7(now),
      topic,
      key,
      value,
      headers,
      timestamp: input.timestamp ?? now,
      tombstone,
      deliverAt: deliverAt !== undefined && deliverAt > now ? deliverAt : undefined,
      dedupeId,
      rawKey: undefined,
      rawHeaders: undefined,
    }
    const size = messageBytes(message, options.maxMessageBytes)
    if (size > options.maxMessageBytes)
      throw new MessagingError(
        'ERR_MESSAGING_TOO_LARGE',
        `A message to ${topic} has ${size} bytes with key and headers, at most ${options.maxMessageBytes} are allowed`,
        { retryable: false },
      )
    return message
  }

  const checkDelay = (delayMs: number, topic: string): void => {
    if (delayMs > 0 && !capabilities.delay) throw unsupported('A delay', driver.name)
    if (capabilities.delay && delayMs > capabilities.delay.maxMs)
      throw new RangeError(`Cannot delay a message to ${topic} by ${delayMs} ms, the most is ${capabilities.delay.maxMs}`)
  }

  const enqueue = (message: OutgoingMessage, timeoutMs: number, done: (result: PublishResult) => void, lane?: Lane, place = 0): Pending => {
    const ended = tracing?.publish(message)
    const entry: Pending = {
      message,
      deadline: clock.monotonic() + timeoutMs,
      state: 'queued',
      lane,
      place,
      taken: false,
      settle: (result) => {
        if (entry.state === 'settled') return
        if (lane && entry.taken && --lane.outstanding === 0) schedule()
        entry.state = 'settled'
        pending.delete(entry)
        if (result.status === 'stored') published++
        else if (lane) lane.brokenAt = Math.min(lane.brokenAt, place)
        ended?.(result.status === 'stored' ? undefined : result.error)
        if (hooks.onPublish) tell(hooks, 'onPublish', { topic: message.topic, id: message.id, result })
        done(result)
      },
    }
    pending.add(entry)
    queue.push(entry)
    schedule()
    if (!sweeping) void sweep()
    else if (entry.deadline < sweeping.until) sweeping.nudge.abort()
    return entry
  }

  const schedule = (): void => {
    if (scheduled || inFlight >= maxInFlight) return
    scheduled = true
    queueMicrotask(flush)
  }

  const flush = (): void => {
    scheduled = false
    while (inFlight < maxInFlight && queue.size > 0) {
      const batch: Pending[] = []
      let bytes = 0
      while (batch.length < maxBatch && bytes < maxBatchBytes && queue.size > 0) {
        const entry = queue.shift()!
        if (entry.lane && entry.lane.outstanding > 0) {
          // What became of those before it is not known yet.
          queue.unshift(entry)
          break
        }
        if (entry.state !== 'queued') continue
        batch.push(entry)
        bytes += entry.message.value.length
      }
      if (batch.length === 0) return
      for (const entry of batch)
        if (entry.lane) {
          entry.lane.outstanding++
          entry.taken = true
        }
      inFlight++
      void deliver(batch).finally(() => {
        inFlight--
        schedule()
      })
    }
  }

  const deliver = async (batch: readonly Pending[]): Promise<void> => {
    const unready = topology.unready(batch, (entry) => entry.message.topic)
    if (unready.length > 0 || preparing) {
      // In turn, so that no batch overtakes one that waits for its topics.
      const mine = (preparing = (preparing ?? Promise.resolve()).then(() => prepare(unready, batch)))
      await mine
      if (preparing === mine) preparing = undefined
    }
    const waves = capabilities.batchOrder ? [batch] : wavesOf(batch)
    for (const wave of waves) {
      for (const entry of wave) if (entry.lane && entry.lane.brokenAt < entry.place) entry.settle({ status: 'rejected', error: behindAFailure(entry.message) })
      await hand(wave.filter((entry) => entry.state === 'queued'))
    }
  }

  let preparing: Promise<void> | undefined

  const prepare = async (topics: readonly string[], batch: readonly Pending[]): Promise<void> => {
    for (const topic of topics) {
      try {
        await topology.ensureTopic(topic)
      } catch (error) {
        for (const entry of batch) if (entry.message.topic === topic) entry.settle({ status: 'rejected', error })
      }
    }
  }

  const hand = async (entries: readonly Pending[], again = false): Promise<void> => {
    if (entries.length === 0) return
    let last = 0
    for (const entry of entries) {
      entry.state = 'sent'
      last = Math.max(last, entry.deadline)
    }
    const limit = new AbortController()
    const guard = { until: last, limit }
    guards.add(guard)
    const missing: Pending[] = []
    try {
      const results = await driver.publish(
        entries.map((entry) => entry.message),
        { signal: limit.signal },
      )
      for (let i = 0; i < entries.length; i++) {
        const result = results[i] ?? { status: 'unknown' as const, error: new Error(`the ${driver.name} driver gave no result`) }
        if (!again && result.status === 'rejected' && topology.forgotten(entries[i]!.message.topic, result.error)) missing.push(entries[i]!)
        else entries[i]!.settle(result)
      }
    } catch (error) {
      for (const entry of entries) entry.settle({ status: 'rejected', error })
    } finally {
      guards.delete(guard)
    }
    if (missing.length === 0) return
    // The topic was deleted behind our back: make it again, once.
    for (const entry of missing) entry.state = 'queued'
    await Promise.all([...new Set(missing.map((entry) => entry.message.topic))].map((topic) => topology.ensureTopic(topic))).catch(() => undefined)
    await hand(missing, true)
  }

  const guards = new Set<{ until: number; limit: AbortController }>()

  /** One timer for all: settles what ran out of time. */
  const sweep = async (): Promise<void> => {
    while (pending.size > 0) {
      let next = Infinity
      for (const entry of pending) next = Math.min(next, entry.deadline)
      sweeping = { until: next, nudge: new AbortController() }
      await clock.sleep(Math.max(20, next - clock.monotonic()), { background: true, signal: sweeping.nudge.signal }).catch(() => undefined)
      expire(clock.monotonic())
    }
    sweeping = undefined
  }

  const expire = (now: number): void => {
    const late = new Error('no answer in time')
    for (const entry of pending) if (entry.deadline <= now) giveUp(entry, late)
    for (const guard of guards) if (guard.until <= now) guard.limit.abort(late)
  }

  const assertOpen = (): void => {
    if (closed) throw closedError('The broker')
    if (queue.size >= options.maxPending)
      throw new MessagingError('ERR_MESSAGING_BACKPRESSURE', `${queue.size} messages wait to be published, at most ${options.maxPending} may`, {
        retryable: true,
      })
  }

  return {
    get published() {
      return published
    },
    send: (message, timeoutMs = 30_000) => new Promise((resolve) => enqueue(message, timeoutMs, resolve)),

    publish: (input, given = byDefault) =>
      new Promise((resolve, reject) => {
        assertOpen()
        if (given !== byDefault) checkOptions('publish', given, publishChecks)
        const { signal, timeoutMs = 30_000 } = given
        signal?.throwIfAborted()
        const message = checked(input)
        const onAbort = (): void => giveUp(entry, signal!.reason)
        const entry = enqueue(message, timeoutMs, (result) => {
          signal?.removeEventListener('abort', onAbort)
          if (result.status === 'stored') resolve(asPublished(message.id, result))
          else reject(signal?.aborted && result.error === signal.reason ? (result.error as Error) : asError(message.topic, result))
        })
        signal?.addEventListener('abort', onAbort, { once: true })
      }),

    publishBatch: async (inputs, given = byDefault) => {
      assertOpen()
      if (!Array.isArray(inputs)) throw new TypeError(`publishBatch: messages must be an array, got ${shown(inputs)}`)
      if (given !== byDefault) checkOptions('publishBatch', given, publishChecks)
      const { signal, timeoutMs = 30_000 } = given
      signal?.throwIfAborted()
      const lanes = new Map<string, Lane>()
      const laneOf = (topic: string, key: string | undefined): Lane | undefined => {
        if (key === undefined) return undefined
        const name = `${topic} ${key}`
        let lane = lanes.get(name)
        if (!lane) lanes.set(name, (lane = { brokenAt: Infinity, outstanding: 0 }))
        return lane
      }
      const entries: Pending[] = []
      const one = async (input: MessageInput, place: number): Promise<BatchResult> => {
        const { topic, key, id = '' } = Object(input) as MessageInput // also of what is no message
        const lane = laneOf(topic, key)
        let message: OutgoingMessage
        try {
          if (lane && lane.brokenAt < place) throw behindAFailure(input)
          message = checked(input)
        } catch (error) {
          if (lane) lane.brokenAt = Math.min(lane.brokenAt, place)
          return {
            id,
            status: 'rejected',
            error: error instanceof MessagingError ? error : publishRefused(typeof topic === 'string' ? topic : shown(topic), error, false),
          }
        }
        const result = await new Promise<PublishResult>((resolve) => entries.push(enqueue(message, timeoutMs, resolve, lane, place)))
        return result.status === 'stored'
          ? { status: 'stored', ...asPublished(message.id, result) }
          : { id: message.id, status: result.status, error: asError(message.topic, result) }
      }
      const onAbort = (): void => {
        for (const entry of entries) giveUp(entry, signal!.reason)
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      const all = await Promise.all(inputs.map(one))
      signal?.removeEventListener('abort', onAbort)
      return all
    },

    close: async (deadlineMs) => {
      closed = true
      const until = clock.monotonic() + deadlineMs
      while (pending.size > 0 && clock.monotonic() < until) {
        const settled = Promise.all([...pending].map((entry) => new Promise<void>((resolve) => onceSettled(entry, resolve))))
        const stop = new AbortController()
        await Promise.race([settled, clock.sleep(until - clock.monotonic(), { signal: stop.signal }).catch(() => undefined)])
        stop.abort()
      }
      expire(Infinity)
    },
  }
}

/** A batch is closed when its bodies have reached this. */
const maxBatchBytes = 4_194_304

/** What most messages are published with, and what need not be checked. */
const byDefault: PublishOptions = {}

const behindAFailure = ({ topic, key }: { topic: string; key?: string | undefined }): MessagingError =>
  publishRefused(topic, `an earlier message of key ${JSON.stringify(key)} in the batch was not stored`, true)

/** Nobody waits for an answer any more: what was handed to the driver may be stored, the rest certainly is not. */
const giveUp = (entry: Pending, error: unknown): void => entry.settle({ status: entry.state === 'sent' ? 'unknown' : 'rejected', error })

function onceSettled(entry: Pending, then: () => void): void {
  const { settle } = entry
  entry.settle = (result) => {
    settle(result)
    then()
  }
}

/** For drivers that cannot promise order within a batch: the first of each key, then the second of each … A wave goes when the one before is answered. */
function wavesOf(batch: readonly Pending[]): Pending[][] {
  const waves: Pending[][] = []
  const seen = new Map<string, number>()
  for (const entry of batch) {
    const { topic, key } = entry.message
    const lane = key === undefined ? undefined : `${topic} ${key}`
    const wave = lane === undefined ? 0 : (seen.get(lane) ?? 0)
    if (lane !== undefined) seen.set(lane, wave + 1)
    ;(waves[wave] ??= []).push(entry)
  }
  return waves
}

function asPublished(id: string, { partition, position, duplicate = false }: PublishResult & { status: 'stored' }): Published {
  return { id, partition, position, duplicate }
}

function asError(topic: string, result: PublishResult & { status: 'rejected' | 'unknown' }): MessagingError {
  if (result.status === 'unknown') return publishUnknown(topic, result.error)
  return result.error instanceof MessagingError ? result.error : publishRefused(topic, result.error)
}

/** Exact only near the limit: UTF-8 takes at most three bytes a UTF-16 unit. */
function messageBytes(message: Pick<OutgoingMessage, 'key' | 'value' | 'headers'>, limit: number): number {
  let units = message.key?.length ?? 0
  for (const name in message.headers) units += name.length + message.headers[name]!.length
  if (message.value.length + units * 3 <= limit) return message.value.length + units
  let bytes = message.value.length + Buffer.byteLength(message.key ?? '')
  for (const name in message.headers) bytes += name.length + Buffer.byteLength(message.headers[name]!)
  return bytes
}
