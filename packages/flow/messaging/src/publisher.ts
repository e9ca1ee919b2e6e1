import { type Deferred, deferred, enough } from '#internal/abort'
import { Fifo } from '#internal/fifo'
import { checkOptions, shown } from '#internal/options'
import type { BrokerDriver, OutgoingMessage, PublishResult } from './driver.ts'
import { closedError, MessagingError, publishRefused, publishUnknown } from './errors.ts'
import { type Hooks, tell, traced, type Tracing } from './hooks.ts'
import type { MessageInput } from './message.ts'
import { publishChecks } from './options.ts'
import { createOutgoing, type OutgoingOptions } from './outgoing.ts'
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

export interface PublisherOptions extends OutgoingOptions {
  hooks: Hooks
  tracing: Tracing | undefined
  topology: Topology
  maxPending: number
}

interface Pending {
  readonly message: OutgoingMessage
  readonly deadline: number
  state: 'queued' | 'sent' | 'settled'
  /** Shared by the messages of one key in one batch: behind the first that failed, none goes out. */
  readonly batchKey: BatchKey | undefined
  /** Place in the batch. */
  readonly place: number
  /** Counted in the key's `outstanding`. */
  taken: boolean
  readonly span: Span
  done(result: PublishResult): void
}

/** Ends what a tracer began. */
type Span = ((error?: unknown) => void) | undefined

/** The messages of one key in one `publishBatch`. */
interface BatchKey {
  /** The place of the first that failed. */
  brokenAt: number
  /** On their way to the driver, or there, without an answer. */
  outstanding: number
}

export interface Publisher {
  publish(input: MessageInput, options?: PublishOptions): Promise<Published>
  publishBatch(inputs: readonly MessageInput[], options?: PublishOptions): Promise<readonly BatchResult[]>
  /** The message that would go out; throws for what cannot be published. */
  checked(input: MessageInput): OutgoingMessage
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
  /** Resolves when nothing is pending: for who closes. */
  let drained: Deferred<void> | undefined
  const checked = createOutgoing(driver, options)

  const begin = (message: OutgoingMessage): Span => tracing && traced('publish', () => tracing.publish(message))

  const enqueue = (message: OutgoingMessage, timeoutMs: number, done: (result: PublishResult) => void, span: Span, batchKey?: BatchKey, place = 0): Pending => {
    const entry: Pending = { message, deadline: clock.monotonic() + timeoutMs, state: 'queued', batchKey, place, taken: false, span, done }
    pending.add(entry)
    queue.push(entry)
    schedule()
    if (!sweeping) void sweep()
    else if (entry.deadline < sweeping.until) sweeping.nudge.abort(enough)
    return entry
  }

  const settle = (entry: Pending, result: PublishResult): void => {
    if (entry.state === 'settled') return
    const { message, batchKey, place, taken, span } = entry
    if (batchKey && taken && --batchKey.outstanding === 0) schedule()
    entry.state = 'settled'
    if (pending.delete(entry) && pending.size === 0) drained?.resolve()
    if (result.status === 'stored') published++
    else if (batchKey) batchKey.brokenAt = Math.min(batchKey.brokenAt, place)
    if (span) traced('publish', () => span(result.status === 'stored' ? undefined : result.error))
    if (hooks.onPublish) tell(hooks, 'onPublish', { topic: message.topic, id: message.id, result })
    entry.done(result)
  }

  /** Nobody waits for an answer any more: what was handed to the driver may be stored, the rest certainly is not. */
  const giveUp = (entry: Pending, error: unknown): void => settle(entry, { status: entry.state === 'sent' ? 'unknown' : 'rejected', error })

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
        if (entry.batchKey && entry.batchKey.outstanding > 0) {
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
        if (entry.batchKey) {
          entry.batchKey.outstanding++
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
      for (const entry of wave)
        if (entry.batchKey && entry.batchKey.brokenAt < entry.place) settle(entry, { status: 'rejected', error: behindAFailure(entry.message) })
      await hand(wave.filter((entry) => entry.state === 'queued'))
    }
  }

  let preparing: Promise<void> | undefined

  const prepare = async (topics: readonly string[], batch: readonly Pending[]): Promise<void> => {
    for (const topic of topics) {
      try {
        await topology.ensureTopic(topic)
      } catch (error) {
        for (const entry of batch) if (entry.message.topic === topic) settle(entry, { status: 'rejected', error })
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
        else settle(entries[i]!, result)
      }
    } catch (error) {
      for (const entry of entries) settle(entry, { status: 'rejected', error })
    } finally {
      guards.delete(guard)
    }
    if (missing.length === 0) return
    // The topic was deleted behind our back: make it again, once. Who has its answer by then does not go out any more.
    for (const entry of missing) if (entry.state === 'sent') entry.state = 'queued'
    await Promise.all([...new Set(missing.map((entry) => entry.message.topic))].map((topic) => topology.ensureTopic(topic))).catch(() => undefined)
    await hand(
      missing.filter((entry) => entry.state === 'queued'),
      true,
    )
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
    checked,
    send: (message, timeoutMs = 30_000) => new Promise((resolve) => enqueue(message, timeoutMs, resolve, undefined)),

    publish: (input, given = byDefault) =>
      new Promise((resolve, reject) => {
        assertOpen()
        if (given !== byDefault) checkOptions('publish', given, publishChecks)
        const { signal, timeoutMs = 30_000 } = given
        signal?.throwIfAborted()
        const message = checked(input)
        const onAbort = signal && ((): void => giveUp(entry, signal.reason))
        const done = (result: PublishResult): void => {
          if (onAbort) signal.removeEventListener('abort', onAbort)
          if (result.status === 'stored') resolve(asPublished(message.id, result))
          else reject(signal?.aborted && result.error === signal.reason ? (result.error as Error) : asError(message.topic, result))
        }
        const entry = enqueue(message, timeoutMs, done, begin(message))
        if (onAbort) signal.addEventListener('abort', onAbort, { once: true })
      }),

    publishBatch: async (inputs, given = byDefault) => {
      assertOpen()
      if (!Array.isArray(inputs)) throw new TypeError(`publishBatch: messages must be an array, got ${shown(inputs)}`)
      if (given !== byDefault) checkOptions('publishBatch', given, publishChecks)
      const { signal, timeoutMs = 30_000 } = given
      signal?.throwIfAborted()
      const keys = new Map<string, BatchKey>()
      const keyOf = (topic: string, key: string | undefined): BatchKey | undefined => {
        if (key === undefined) return undefined
        const name = `${topic} ${key}`
        let batchKey = keys.get(name)
        if (!batchKey) keys.set(name, (batchKey = { brokenAt: Infinity, outstanding: 0 }))
        return batchKey
      }
      const entries: Pending[] = []
      const one = async (input: MessageInput, place: number): Promise<BatchResult> => {
        const { topic, key, id = '' } = Object(input) as MessageInput // also of what is no message
        const batchKey = keyOf(topic, key)
        let message: OutgoingMessage
        try {
          if (batchKey && batchKey.brokenAt < place) throw behindAFailure(input)
          message = checked(input)
        } catch (error) {
          if (batchKey) batchKey.brokenAt = Math.min(batchKey.brokenAt, place)
          return {
            id,
            status: 'rejected',
            error: error instanceof MessagingError ? error : publishRefused(typeof topic === 'string' ? topic : shown(topic), error, false),
          }
        }
        const result = await new Promise<PublishResult>((resolve) => entries.push(enqueue(message, timeoutMs, resolve, begin(message), batchKey, place)))
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
        drained = deferred()
        const stop = new AbortController()
        await Promise.race([drained.promise, clock.sleep(until - clock.monotonic(), { signal: stop.signal }).catch(() => undefined)])
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
