import { errorText } from '#internal/thrown'
import type { TopicSpec } from './driver.ts'

/** Match on these, not on classes: two copies of a package happen. */
export type MessagingErrorCode =
  | 'ERR_MESSAGING_PUBLISH'
  | 'ERR_MESSAGING_PUBLISH_UNKNOWN'
  | 'ERR_MESSAGING_TOO_LARGE'
  | 'ERR_MESSAGING_BACKPRESSURE'
  | 'ERR_MESSAGING_TOPIC_NOT_FOUND'
  | 'ERR_MESSAGING_TOPOLOGY_MISMATCH'
  | 'ERR_MESSAGING_NO_GROUP'
  | 'ERR_MESSAGING_GROUP_BUSY'
  | 'ERR_MESSAGING_UNSUPPORTED'
  | 'ERR_MESSAGING_CLOSED'
  | 'ERR_MESSAGING_DECODE'
  | 'ERR_MESSAGING_REJECTED'
  | 'ERR_MESSAGING_RETRY'
  | 'ERR_MESSAGING_HANDLER_TIMEOUT'
  | 'ERR_MESSAGING_OWNERSHIP_LOST'
  | 'ERR_MESSAGING_SHUTDOWN'
  | 'ERR_MESSAGING_CRASH_LOOP'
  /** It cannot be reached, or gave no answer. */
  | 'ERR_MESSAGING_CONNECTION'
  /** It answered, and did not do it: missing tables or privileges, say. */
  | 'ERR_MESSAGING_BROKER'
  | 'ERR_MESSAGING_CLIENT_MISSING'
  | 'ERR_MESSAGING_MISSED'

/** What this package throws, but for misuse, which is a `TypeError` or a `RangeError`. */
export class MessagingError extends Error {
  override readonly name = 'MessagingError'
  readonly code: MessagingErrorCode
  /** Whether the same call may succeed later. */
  readonly retryable: boolean
  constructor(code: MessagingErrorCode, message: string, options: { retryable: boolean; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.retryable = options.retryable
  }
}

/** The message is certainly not stored. */
export const publishRefused = (topic: string, cause: unknown, retryable: boolean = isRetryable(cause)): MessagingError =>
  new MessagingError('ERR_MESSAGING_PUBLISH', `Cannot publish to ${topic}: ${errorText(cause)}`, { retryable, cause })

/** No answer came: the message may be stored. Publishing it again under the same id is safe for consumers that deduplicate by id. */
export const publishUnknown = (topic: string, cause: unknown): MessagingError =>
  new MessagingError('ERR_MESSAGING_PUBLISH_UNKNOWN', `No confirmation for a message to ${topic}, it may be stored: ${errorText(cause)}`, {
    retryable: true,
    cause,
  })

export const topicNotFound = (topic: string): MessagingError =>
  new MessagingError('ERR_MESSAGING_TOPIC_NOT_FOUND', `There is no topic ${topic}: create it, or use topics: 'create'`, { retryable: false })

export const groupNotFound = (topic: string, group: string): MessagingError =>
  new MessagingError('ERR_MESSAGING_TOPIC_NOT_FOUND', `There is no group ${group} on ${topic}: create it, or subscribe`, { retryable: false })

/** Why a topic cannot be made as `wanted` beside the one that is there: it is another kind of topic, or counts as the same name. Nothing when it is there as wanted. */
export function topicTaken(topic: string, wanted: TopicSpec, there: TopicSpec & { readonly name: string }): MessagingError | undefined {
  const mismatch = (text: string): MessagingError => new MessagingError('ERR_MESSAGING_TOPOLOGY_MISMATCH', text, { retryable: false })
  if (there.name !== topic)
    return mismatch(`Topic ${topic} cannot be made: ${there.name} is there, and . and _ count as one character, as on Kafka; rename one of the two`)
  if (wanted.partitions !== there.partitions)
    return mismatch(`Topic ${topic} cannot have ${wanted.partitions} partitions: it is there with ${there.partitions}`)
  // Who says none takes what is there.
  if (wanted.maxAgeMs !== undefined && wanted.maxAgeMs !== there.maxAgeMs)
    return mismatch(
      `Topic ${topic} cannot have a retention of ${wanted.maxAgeMs} ms: it is there with ${there.maxAgeMs === undefined ? 'none' : `${there.maxAgeMs} ms`}`,
    )
  if (wanted.keep !== there.keep)
    return mismatch(
      `Topic ${topic} cannot be ${wanted.keep ? 'one of dead letters' : 'one that groups read'}: it is there as ${wanted.keep ? 'one that groups read' : 'one of dead letters'}`,
    )
  return undefined
}

/** Who reads without a group is not waited for: what nobody else needs may be removed before it comes to it. */
export const missedMessages = (topic: string, partition: number, n: number): MessagingError =>
  new MessagingError(
    'ERR_MESSAGING_MISSED',
    `${n} messages of partition ${partition} of ${topic} were removed before this listener without a group read them`,
    {
      retryable: true,
    },
  )

export const closedError = (what: string): MessagingError => new MessagingError('ERR_MESSAGING_CLOSED', `${what} is closed`, { retryable: false })

export const unsupported = (what: string, driver: string): MessagingError =>
  new MessagingError('ERR_MESSAGING_UNSUPPORTED', `${what} is not available with the ${driver} driver`, { retryable: false })

/** An error says itself whether trying again makes sense; one that says nothing is worth another try. */
export function isRetryable(error: unknown): boolean {
  return !(typeof error === 'object' && error !== null && 'retryable' in error && error.retryable === false)
}
