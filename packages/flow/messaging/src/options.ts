import {
  ascending,
  type Check,
  type Checks,
  count,
  having,
  integer,
  isBoolean,
  isClock,
  isFunction,
  isSignal,
  isString,
  listOf,
  milliseconds,
  nested,
  number,
  oneOf,
  shown,
} from '#internal/options'
import type { PeekOptions, TopicOptions } from './administration.ts'
import type { BrokerOptions, SubscribeOptions } from './broker.ts'
import type { ListOptions, ReplayOptions } from './dead-letters.ts'
import type { Hooks } from './hooks.ts'
import type { PublishOptions } from './publisher.ts'
import type { PullOptions } from './pull.ts'
import type { RetryOptions } from './retry.ts'

// What every option may be. Names of topics, groups and headers have their own grammar in names.ts.

/** A partition is a lease and a row or a queue: so many are as many as a topic can use. */
const isPartitions: Check = integer(1, 1_024)

export const isCodec: Check = (value, name) => {
  // Schemas of zod have encode and decode too, for other things.
  if (Object(value) === value && '~standard' in (value as object)) throw new TypeError(`${name} must be a codec, got a schema: json(schema) makes one of it`)
  having('encode', 'decode')(value, name)
}

const isPosition: Check = (value, name) => {
  isString(value, name)
  if (!/^\d+(-\d+)*$/.test(value as string)) throw new RangeError(`${name} must be a position that the broker gave, got ${shown(value)}`)
}

const isStart: Check = (value, name) => {
  if (value === 'earliest' || value === 'latest' || (value instanceof Date && !Number.isNaN(value.getTime()))) return
  if (value instanceof Map) {
    for (const [partition, position] of value) {
      integer(0)(partition, `${name}: a partition`)
      isPosition(position, `${name}: the position of partition ${String(partition)}`)
    }
    return
  }
  const text = value instanceof Date ? 'an invalid Date' : shown(value)
  throw new (typeof value === 'string' || value instanceof Date ? RangeError : TypeError)(
    `${name} must be 'earliest', 'latest', a Date or a Map of positions by partition, got ${text}`,
  )
}

const hooks: Checks<Hooks> = {
  onPublish: isFunction,
  onDelivery: isFunction,
  onSettled: isFunction,
  onError: isFunction,
  onStuck: isFunction,
}

const retryOptions: Checks<RetryOptions> = {
  maxAttempts: count(1),
  initialDelayMs: milliseconds(),
  maxDelayMs: milliseconds(),
  multiplier: number(1),
  isRetryable: isFunction,
  onRetry: oneOf('hold', 'leave-order'),
  inlineAttempts: count(1),
}
const retry: Check = ascending('initialDelayMs', 'maxDelayMs', nested(retryOptions))

export const brokerChecks: Checks<BrokerOptions> = {
  clock: isClock,
  topics: oneOf('create', 'expect'),
  partitions: isPartitions,
  deadLetterSuffix: isString,
  maxMessageBytes: integer(1),
  maxPending: count(1),
  middleware: listOf(isFunction),
  hooks: nested(hooks),
  tracing: having('publish', 'handle'),
  random: isFunction,
}

export const isConcurrency: Check = count(1)

/** Ms from now; how much is too much the driver says. */
export const isDelay: Check = number(0)

export const subscribeChecks: Checks<SubscribeOptions> = {
  group: isString,
  concurrency: isConcurrency,
  order: oneOf('key', 'partition', 'none'),
  start: isStart,
  retry,
  deadLetter: isBoolean,
  codec: isCodec,
  middleware: listOf(isFunction),
  handlerTimeoutMs: milliseconds(),
  abortGraceMs: milliseconds(),
  drainMs: milliseconds(),
  prefetch: integer(1),
  maxInFlight: count(1),
  maxCrashes: count(1),
  flushMs: milliseconds(),
  flushEvery: count(0),
  signal: isSignal,
}

const { concurrency: _concurrency, handlerTimeoutMs: _handlerTimeoutMs, ...pullable } = subscribeChecks
export const pullChecks: Checks<PullOptions<unknown>> = pullable

export const publishChecks: Checks<PublishOptions> = { signal: isSignal, timeoutMs: milliseconds() }

export const retryChecks: Checks<{ delayMs: unknown }> = { delayMs: isDelay }

const anything: Check = () => undefined
export const letterChecks: Checks<{ error: unknown; headers: unknown }> = { error: anything, headers: anything }

export const topicChecks: Checks<TopicOptions> = {
  partitions: isPartitions,
  groups: listOf(isString),
  retention: nested({ maxAgeMs: number(1) }),
}

export const groupChecks: Checks<{ start: unknown }> = { start: isStart }
export const resetChecks: Checks<{ to: unknown }> = { to: isStart }
export const signalChecks: Checks<{ signal: unknown }> = { signal: isSignal }

export const peekChecks: Checks<PeekOptions> = { partition: integer(0), after: isPosition, limit: integer(1) }

export const listChecks: Checks<ListOptions> = { after: isPosition, limit: count(1), filter: isFunction, scan: count(1) }

export const discardChecks: Checks<Pick<ReplayOptions, 'ids' | 'filter'>> = { ids: listOf(isString), filter: isFunction }

export const replayChecks: Checks<ReplayOptions> = {
  ...discardChecks,
  order: oneOf('oldest', 'newest'),
  limit: count(0),
  ratePerSecond: number(0),
  dryRun: isBoolean,
  maxReplays: count(0),
  edit: isFunction,
  signal: isSignal,
}
