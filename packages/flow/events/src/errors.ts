import { errorText } from '#internal/thrown'

/** - `ERR_EVENTS_INVALID`: the data are not what the schema asks for (`issues` says where), or an upcaster failed.
 * - `ERR_EVENTS_VERSION`: a version newer than the one defined here, or older than its first upcaster.
 * - `ERR_EVENTS_UNKNOWN`: no event of that name is defined and no raw handler matches it.
 * - `ERR_EVENTS_ENVELOPE`: not CloudEvents 1.0 with JSON data.
 * - `ERR_EVENTS_TIMEOUT`: a handler did not end within its `timeoutMs`.
 * - `ERR_EVENTS_CLOSED`: the publisher is closed. */
export type EventErrorCode =
  | 'ERR_EVENTS_INVALID'
  | 'ERR_EVENTS_VERSION'
  | 'ERR_EVENTS_UNKNOWN'
  | 'ERR_EVENTS_ENVELOPE'
  | 'ERR_EVENTS_TIMEOUT'
  | 'ERR_EVENTS_CLOSED'

/** Where the data do not fit the schema: `path` is empty for the data as a whole. */
export interface EventIssue {
  readonly path: string
  readonly message: string
}

/** What is wrong with one event. Match on `code`. */
export class EventError extends Error {
  override readonly name = 'EventError'
  readonly code: EventErrorCode
  readonly retryable: boolean
  /** With `ERR_EVENTS_INVALID`: what the schema found. */
  readonly issues: readonly EventIssue[]
  constructor(code: EventErrorCode, message: string, options: { cause?: unknown; retryable?: boolean; issues?: readonly EventIssue[] } = {}) {
    super(message, options)
    this.code = code
    this.retryable = options.retryable ?? false
    this.issues = options.issues ?? []
  }
}

/** A handler that failed for good. */
export interface HandlerFailure {
  readonly handler: string
  readonly error: unknown
  /** How often it ran for this delivery. */
  readonly attempts: number
}

/** One or more handlers of an event failed for good. Not retryable: each was retried as far as its `retry` goes. */
export class EventHandlingError extends Error {
  override readonly name = 'EventHandlingError'
  readonly code = 'ERR_EVENTS_HANDLING'
  readonly retryable = false
  readonly failures: readonly HandlerFailure[]
  /** The handlers that need not run again: they succeeded, now or before. */
  readonly done: readonly string[]
  constructor(event: { name: string; id: string }, failures: readonly HandlerFailure[], done: readonly string[]) {
    const why = failures.map(({ handler, error, attempts }) => `${handler} (${attempts}x: ${errorText(error)})`).join(', ')
    super(`Cannot handle ${event.name} ${event.id}: ${why}`, { cause: failures[0]?.error })
    this.failures = failures
    this.done = done
  }
}

/** Some events of a batch were not stored, or nobody knows. */
export class EventPublishError extends Error {
  override readonly name = 'EventPublishError'
  readonly code = 'ERR_EVENTS_PUBLISH'
  readonly retryable: boolean
  /** `index` is the event's place in the batch; all others are stored. */
  readonly failures: readonly { readonly index: number; readonly id: string; readonly status: 'rejected' | 'unknown'; readonly error: unknown }[]
  constructor(total: number, failures: EventPublishError['failures']) {
    super(`Cannot publish ${failures.length} of ${total} events: ${errorText(failures[0]?.error)}`, { cause: failures[0]?.error })
    this.failures = failures
    this.retryable = failures.every(({ error }) => isRetryable(error))
  }
}

/** Whether trying again may help: yes, unless the error says no by `retryable: false`. */
export function isRetryable(error: unknown): boolean {
  return (error as { retryable?: unknown } | null | undefined)?.retryable !== false
}
