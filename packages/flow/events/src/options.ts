import {
  ascending,
  type Check,
  type Checks,
  checkOptions,
  count,
  having,
  integer,
  isBoolean,
  isClock,
  isFunction,
  isSchema,
  isSignal,
  isString,
  listOf,
  milliseconds,
  nested,
  number,
  oneOf,
  shown,
} from '#internal/options'
import type { AnyEventDefinition, Correlation, DefineOptions, DomainEvent, EventOptions } from './event.ts'
import type { HandlerOptions, RetryOptions } from './handler.ts'
import type { ProcessorHooks } from './hooks.ts'
import type { ReceivedMessage } from './message.ts'
import type { ProcessorOptions, RawEventOptions } from './processor.ts'
import type { EventPublishOptions } from './publisher.ts'
import type { WorkerOptions } from './worker.ts'

// What every option may be. What travels as a header is checked where the event is made.

const anything: Check = () => undefined

export const isDefinition: Check = (value, name) => {
  if (typeof value !== 'function' || !('versions' in value)) throw new TypeError(`${name} must be what defineEvent returns, got ${shown(value)}`)
}

/** For what cannot be an event at all: whoever has none by `defineEvent` may make one by hand. */
export function assertEvent(event: DomainEvent): void {
  if (typeof event?.name !== 'string' || !(event.occurredAt instanceof Date))
    throw new TypeError(`An event must be what its definition makes, got ${shown(event)}`)
}

export function assertMessage(message: ReceivedMessage): void {
  if (!(message?.value instanceof Uint8Array) || typeof message.headers !== 'object')
    throw new TypeError(`A message must be an object with value, headers, got ${shown(message)}`)
}

const isHandler: Check = (value, name) => {
  if (typeof value === 'function' || typeof (value as { handle?: unknown } | null | undefined)?.handle === 'function') return
  throw new TypeError(`${name} must be a function or an object with handle(), got ${shown(value)}`)
}

const isSubscription: Check = (value, name) => {
  if (typeof value !== 'object' || value === null) throw new TypeError(`${name} must be an object, got ${shown(value)}`)
  for (const own of ['group', 'concurrency', 'retry'])
    if (own in value) throw new TypeError(`${name}.${own} is not an option: ${own === 'retry' ? 'the processor retries' : `give the worker its ${own}`}`)
}

const retryOptions: Checks<RetryOptions> = {
  maxAttempts: count(1),
  initialDelayMs: milliseconds(),
  maxDelayMs: milliseconds(),
  multiplier: number(1),
  isRetryable: isFunction,
}
const retry: Check = ascending('initialDelayMs', 'maxDelayMs', nested(retryOptions))

/** As the brokers of this project have it; refused here, and not at the first publish. */
const isTopic: Check = (value, name) => {
  isString(value, name)
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}$/.test(value as string))
    throw new RangeError(`${name} must be 1 to 120 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit, got ${shown(value)}`)
}

const isInbox: Check = (value, name) => {
  const { run, runner } = Object(value) as { run?: unknown; runner?: unknown }
  if (typeof run !== 'function' && typeof runner === 'function')
    throw new TypeError(`${name} must be an object with run(), got ${shown(value)}; call its runner(transaction)`)
  having('run')(value, name)
}

const hooks: Checks<ProcessorHooks> = {
  onProcessed: isFunction,
  onRetry: isFunction,
  onFailed: isFunction,
  onSeparated: isFunction,
  onSkipped: isFunction,
  onDeadLetter: isFunction,
}

const correlation: Checks<Correlation> = { tenantId: anything, correlationId: anything, causationId: anything, traceparent: anything, tracestate: anything }

export const defineChecks: Checks<DefineOptions<never>> = {
  version: integer(1),
  schema: isSchema,
  topic: isTopic,
  aggregateId: isFunction,
  key: isFunction,
  description: isString,
}

export const eventChecks: Checks<EventOptions> = { id: anything, occurredAt: anything, aggregateId: anything, ...correlation }

export const processorChecks: Checks<ProcessorOptions<never>> = {
  registry: (value, name) => {
    if (typeof (Object(value) as Iterable<AnyEventDefinition>)[Symbol.iterator] !== 'function')
      throw new TypeError(`${name} must be what createEventRegistry returns, got ${shown(value)}`)
  },
  onUnknown: oneOf('skip', 'deadLetter'),
  retry,
  inbox: isInbox,
  sharedTransaction: isBoolean,
  typeOf: isFunction,
  abortGraceMs: milliseconds(),
  hooks: nested(hooks),
  clock: isClock,
}

const handlerChecks: Checks<HandlerOptions> = { name: isString, retry, timeoutMs: milliseconds(1), policy: having('execute') }

export const signalChecks: Checks<{ signal: unknown }> = { signal: isSignal }

export const rawEventChecks: Checks<RawEventOptions> = { id: isString, version: integer(1), headers: anything, signal: isSignal }

export const messageChecks: Checks<{ source: unknown; correlation: unknown }> = { source: isString, correlation: nested(correlation) }

export const publisherChecks: Checks<{ source: unknown }> = { source: isString }

export const publishChecks: Checks<EventPublishOptions> = { correlation: nested(correlation), signal: isSignal }

export const workerChecks: Checks<WorkerOptions> = {
  subscriber: having('subscribe'),
  processor: having('processMessage'),
  topics: listOf(isString),
  group: isString,
  concurrency: count(1),
  subscription: isSubscription,
}

/** What `on` and `onRaw` are called with, beside the event. */
export function checkHandler(where: string, handler: unknown, options: unknown): void {
  isHandler(handler, `${where}: handler`)
  checkOptions(where, options, handlerChecks)
}
