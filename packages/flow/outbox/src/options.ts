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
  isTime,
  listOf,
  milliseconds,
  nested,
  number,
  oneOf,
  shown,
} from '#internal/options'
import type { InboxOptions, RunnerOptions } from './inbox.ts'
import type { AddOptions, OutboxOptions } from './outbox.ts'
import type { RelayHooks, RelayOptions } from './relay-types.ts'

// What every option may be.

export const isClient: Check = having('query')
export const isIds: Check = listOf(integer(0))

const isPowerOfTwo: Check = (value, name) => {
  if ([1, 2, 4, 8, 16, 32, 64].includes(value as number)) return
  throw new (typeof value === 'number' ? RangeError : TypeError)(`${name} must be a power of two up to 64, got ${shown(value)}`)
}

const isOutboxStore: Check = (value, name) => {
  const { rows, leases, queue } = Object(value) as Record<string, unknown>
  if (!rows || !leases || !queue) throw new TypeError(`${name} must be an outbox's store, as memoryStore().outbox is, got ${shown(value)}`)
}

const isPublisher: Check = (value, name) => {
  const { publish, publishBatch } = Object(value) as Record<string, unknown>
  if (typeof publish !== 'function' && typeof publishBatch !== 'function')
    throw new TypeError(`${name} must be an object with publish() or publishBatch(), got ${shown(value)}`)
}

const isGroups: Check = (value, name) => {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TypeError(`${name} must be an object of topics and their groups, got ${shown(value)}`)
  for (const [topic, groups] of Object.entries(value)) listOf(isString)(groups, `${name}.${topic}`)
}

export const outboxChecks: Checks<OutboxOptions> = {
  schema: isString,
  table: isString,
  partitions: isPowerOfTwo,
  notify: isBoolean,
  maxMessageBytes: integer(1),
  reservedSuffixes: listOf(isString),
  clock: isClock,
  store: isOutboxStore,
}

export const addChecks: Checks<AddOptions> = { key: isString, deliverAt: isTime }

export const listChecks: Checks<{ after: unknown; limit: unknown }> = { after: integer(0), limit: integer(1) }

const hooks: Checks<RelayHooks> = { onPublished: isFunction, onParked: isFunction, onError: isFunction, onAlarm: isFunction }

const backoff: Check = ascending('initialMs', 'maxMs', nested({ initialMs: milliseconds(), maxMs: milliseconds(), multiplier: number(1) }))

export const relayChecks: Checks<RelayOptions> = {
  db: isClient,
  publisher: isPublisher,
  outbox: having('add', 'schema', 'counts', 'parked'),
  batch: integer(1),
  pollMs: milliseconds(1),
  wake: oneOf('poll', 'poll+notify'),
  listen: isFunction,
  groups: isGroups,
  leaseMs: milliseconds(1),
  publishTimeoutMs: milliseconds(1),
  maxAttempts: count(1),
  retry: backoff,
  backoff,
  onPark: oneOf('block-key', 'skip-key'),
  alarmMs: milliseconds(),
  hooks: nested(hooks),
  clock: isClock,
  random: isFunction,
}

export const inboxChecks: Checks<InboxOptions> = {
  schema: isString,
  table: isString,
  retentionMs: number(1),
  clockSkewMs: number(0),
  allowOld: isBoolean,
  messageId: isFunction,
  store: having('alive', 'nested', 'record', 'sweep'),
}

export const runnerChecks: Checks<RunnerOptions> = { commitChecked: isBoolean }

export const handlerChecks: Checks<{ handler: unknown }> = { handler: isString }

export const signalChecks: Checks<{ signal: unknown }> = { signal: isSignal }

export const memoryChecks: Checks<{ clock: unknown; partitions: unknown }> = { clock: isClock, partitions: integer(1) }
