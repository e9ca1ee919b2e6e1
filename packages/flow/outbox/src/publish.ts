import { enough } from '#internal/abort'
import type { Clock } from '#internal/clock'
import { shown } from '#internal/options'
import { errorText } from '#internal/thrown'
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

/** `untried`: an earlier row of its lane failed. */
export interface SendResult {
  status: PublishResult['status'] | 'untried'
  error?: PublishResult['error']
}

/** Publishes rows in their order and never throws. What has no answer after `timeoutMs` is `unknown`. `individually`: what failed was answered for row by row. */
export async function send(
  publisher: RelayPublisher,
  rows: readonly Row[],
  { clock, timeoutMs }: { clock: Clock; timeoutMs: number },
): Promise<{ results: SendResult[]; individually: boolean }> {
  const deadline = new AbortController()
  const answered = new AbortController()
  const results: SendResult[] = rows.map(() => ({ status: 'untried' }))
  let individually = true
  const timeout = clock.sleep(timeoutMs, { signal: answered.signal }).then(
    () => {
      const error = new PublishTimeoutError(timeoutMs)
      individually = !publisher.publishBatch
      deadline.abort(error)
      for (const result of results) if (result.status === 'untried') Object.assign(result, { status: 'unknown', error })
    },
    () => undefined,
  )
  // What comes in after the deadline must change nothing: the array has been handed back by then.
  const settle = (i: number, result: SendResult): void => {
    if (!deadline.signal.aborted) results[i] = result
  }
  const { signal } = deadline
  const work = publisher.publishBatch ? inOneBatch(publisher.publishBatch.bind(publisher), rows, settle, signal) : oneByOne(publisher, rows, settle, signal)
  // Whatever else goes wrong while publishing is no fault of the database.
  const failed = work.catch((error: unknown) => {
    individually = false
    for (const i of rows.keys()) if (results[i]!.status === 'untried') settle(i, { status: 'unknown', error: asError(error) })
  })
  await Promise.race([failed, timeout])
  answered.abort(enough)
  return { results, individually: individually || rows.length === 1 }
}

async function inOneBatch(
  publishBatch: NonNullable<RelayPublisher['publishBatch']>,
  rows: readonly Row[],
  settle: (i: number, result: SendResult) => void,
  signal: AbortSignal,
): Promise<void> {
  const results: unknown = await publishBatch(rows.map(toMessage), { signal })
  if (!Array.isArray(results)) throw new TypeError(`The publisher's publishBatch must give an array of results, got ${shown(results)}`)
  for (const i of rows.keys()) {
    const none = (): PublishResult => ({ status: 'unknown', error: new Error(`The publisher gave no result for message ${i} of ${rows.length}`) })
    const result = (results[i] as PublishResult | undefined) ?? none()
    settle(i, result.error === undefined || typeof result.error?.message === 'string' ? result : { ...result, error: asError(result.error) })
  }
}

/** Lanes side by side, each in sequence until its first failure. */
async function oneByOne(publisher: RelayPublisher, rows: readonly Row[], settle: (i: number, result: SendResult) => void, signal: AbortSignal): Promise<void> {
  const lanes = Map.groupBy(rows.keys(), (i) => rows[i]!.lane)
  await Promise.all(
    Array.from(lanes.values(), async (lane) => {
      for (const i of lane) {
        try {
          await publisher.publish!(toMessage(rows[i]!), { signal })
          settle(i, { status: 'stored' })
        } catch (thrown) {
          const error = asError(thrown)
          settle(i, { status: error.retryable === false ? 'rejected' : 'unknown', error })
          return
        }
      }
    }),
  )
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
