import type { Clock } from '#internal/clock'
import { shown } from '#internal/options'
import { errorText } from '#internal/thrown'
import { answered } from './deadline.ts'
import { PublishTimeoutError } from './errors.ts'
import type { Row } from './store.ts'

/** A message as the relay hands it to the publisher. */
export interface PublishedMessage {
  id: string
  topic: string
  key?: string
  value: Uint8Array
  headers: Record<string, string>
  timestamp: number
  dedupeId?: string
}

/** Result i belongs to message i. `unknown`: no answer came, it may be stored. */
export interface PublishResult {
  status: 'stored' | 'rejected' | 'unknown'
  error?: (Error & { code?: unknown; retryable?: unknown }) | undefined
}

/** What takes the messages: a broker, or anything of its shape. One of the two ways to publish is enough. */
export interface RelayPublisher {
  /** Resolves once the message is stored. */
  publish?(message: PublishedMessage, options: { signal: AbortSignal }): Promise<unknown>
  /** After a message of a key has failed, later ones of that key must not be stored. */
  publishBatch?(messages: readonly PublishedMessage[], options: { signal: AbortSignal }): Promise<readonly PublishResult[]>
  /** Makes a consumer group that is to hear everything from now on. */
  createGroup?(topic: string, group: string): Promise<unknown>
}

/** `untried`: an earlier row of its lane failed, or took too long. */
export interface SendResult {
  status: PublishResult['status'] | 'untried'
  error?: PublishResult['error']
}

/** What came of a send. `individually`: what failed was answered for row by row. */
export interface Outcome {
  results: readonly SendResult[]
  individually: boolean
}

export interface SendOptions {
  clock: Clock
  /** How long an answer may take. */
  timeoutMs: number
  /** No further message is begun where they go one by one. */
  stopping: AbortSignal
}

/** Publishes rows in their order and never throws. What has no answer in time is `unknown`. */
export function send(publisher: RelayPublisher, rows: readonly Row[], options: SendOptions): Promise<Outcome> {
  return publisher.publishBatch ? inOneBatch(publisher.publishBatch.bind(publisher), rows, options) : oneByOne(publisher, rows, options)
}

async function inOneBatch(publishBatch: NonNullable<RelayPublisher['publishBatch']>, rows: readonly Row[], options: SendOptions): Promise<Outcome> {
  try {
    const given: unknown = await inTime((signal) => publishBatch(rows.map(toMessage), { signal }), options)
    if (!Array.isArray(given)) throw new TypeError(`The publisher's publishBatch must give an array of results, got ${shown(given)}`)
    const results = rows.map((_, i): SendResult => {
      const none = (): PublishResult => ({ status: 'unknown', error: new Error(`The publisher gave no result for message ${i} of ${rows.length}`) })
      const result = (given[i] as PublishResult | undefined) ?? none()
      return result.error === undefined || typeof result.error?.message === 'string' ? result : { ...result, error: asError(result.error) }
    })
    return { results, individually: true }
  } catch (thrown) {
    const error = asError(thrown)
    return { results: rows.map(() => ({ status: 'unknown', error })), individually: rows.length === 1 }
  }
}

/** Lanes side by side, each in sequence until its first failure, or until they have taken as long as one message may: a batch has an end. */
async function oneByOne(publisher: RelayPublisher, rows: readonly Row[], options: SendOptions): Promise<Outcome> {
  const { clock, timeoutMs, stopping } = options
  const results: SendResult[] = rows.map(() => ({ status: 'untried' }))
  const until = clock.monotonic() + timeoutMs
  await Promise.all(
    Array.from(Map.groupBy(rows.keys(), (i) => rows[i]!.lane).values(), async (lane) => {
      for (const i of lane) {
        if (i !== lane[0] && (stopping.aborted || clock.monotonic() >= until)) return
        try {
          await inTime((signal) => publisher.publish!(toMessage(rows[i]!), { signal }), options)
          results[i] = { status: 'stored' }
        } catch (thrown) {
          const error = asError(thrown)
          results[i] = { status: error.retryable === false ? 'rejected' : 'unknown', error }
          return
        }
      }
    }),
  )
  return { results, individually: true }
}

async function inTime<T>(call: (signal: AbortSignal) => Promise<T>, { clock, timeoutMs }: SendOptions): Promise<T> {
  const deadline = new AbortController()
  return answered(call(deadline.signal), clock, timeoutMs, () => {
    const error = new PublishTimeoutError(timeoutMs)
    deadline.abort(error)
    return error
  })
}

function toMessage({ messageId, topic, key, value, headers, timestamp, dedupeId }: Row): PublishedMessage {
  return { id: messageId, topic, ...(key !== undefined && { key }), value, headers, timestamp, ...(dedupeId !== undefined && { dedupeId }) }
}

/** With a message that is text, since that is stored with the row when it is parked. */
function asError(thrown: unknown): NonNullable<PublishResult['error']> {
  if (thrown instanceof Error && typeof thrown.message === 'string') return thrown
  const { retryable } = (thrown ?? {}) as { retryable?: unknown }
  return Object.assign(new Error(errorText(thrown), { cause: thrown }), retryable === false && { retryable })
}
