import { errorText } from '#internal/thrown'
import type { OutgoingMessage, StoredMessage } from './driver.ts'

/** The engine's own headers, on every broker. `WIRE.md` is the table; readers ignore those they do not know. */
export const header = {
  failures: 'cb-failures',
  firstFailureAt: 'cb-first-failure-at',
  lastFailureAt: 'cb-last-failure-at',
  originTopic: 'cb-origin-topic',
  originPartition: 'cb-origin-partition',
  originPosition: 'cb-origin-position',
  group: 'cb-group',
  deliverAt: 'cb-deliver-at',
  errorCode: 'cb-error-code',
  errorMessage: 'cb-error-message',
  errorStack: 'cb-error-stack',
  replays: 'cb-replays',
  letterId: 'cb-letter-id',
} as const

/** Where a message first stood, kept through retries, dead letters and replays. */
export interface Origin {
  readonly topic: string
  readonly partition: number
  readonly position: string
}

/** What the engine wrote on a message of its own. */
export interface Trail {
  readonly failures: number
  readonly firstFailureAt: number | undefined
  readonly replays: number
  readonly origin: Origin | undefined
  readonly deliverAt: number | undefined
}

const none: Trail = { failures: 0, firstFailureAt: undefined, replays: 0, origin: undefined, deliverAt: undefined }

export function trailOf(headers: Readonly<Record<string, string>>): Trail {
  let own = false
  for (const name in headers)
    if (name.startsWith('cb-')) {
      own = true
      break
    }
  if (!own) return none
  const topic = headers[header.originTopic]
  return {
    failures: count(headers[header.failures]),
    firstFailureAt: headers[header.firstFailureAt] === undefined ? undefined : count(headers[header.firstFailureAt]),
    replays: count(headers[header.replays]),
    origin: topic === undefined ? undefined : { topic, partition: count(headers[header.originPartition]), position: headers[header.originPosition] ?? '' },
    deliverAt: headers[header.deliverAt] === undefined ? undefined : count(headers[header.deliverAt]),
  }
}

const count = (text: string | undefined): number => {
  const value = Number(text)
  return Number.isFinite(value) && value >= 0 ? value : 0
}

/** The user's headers: everything but ours. The same object when there is nothing of ours. */
export function userHeaders(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  for (const name in headers) if (name.startsWith('cb-')) return Object.fromEntries(Object.entries(headers).filter(([key]) => !key.startsWith('cb-')))
  return headers
}

/** A copy of a stored message for another topic of ours: same id, key, body and time. */
export function copyOf(
  message: StoredMessage,
  topic: string,
  headers: Record<string, string>,
  more: { deliverAt?: number; dedupeId?: string } = {},
): OutgoingMessage {
  return {
    id: message.id,
    topic,
    key: message.key,
    value: message.value,
    headers,
    timestamp: message.timestamp,
    tombstone: message.tombstone,
    deliverAt: more.deliverAt,
    dedupeId: more.dedupeId,
    rawKey: message.rawKey,
    rawHeaders: message.rawHeaders,
  }
}

export function originHeaders({ topic, partition, position }: Origin): Record<string, string> {
  return { [header.originTopic]: topic, [header.originPartition]: String(partition), [header.originPosition]: position }
}

/** Code, message and stack (8 KiB at most, cut) of whatever was thrown, as header values. */
export function diagnosis(error: unknown): Record<string, string> {
  const given = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
  const code = typeof given === 'string' || typeof given === 'number' ? `${given}` : error instanceof Error ? text(error.name) : typeof error
  const stack = error instanceof Error ? text(error.stack) : ''
  return { [header.errorCode]: clean(code, 128), [header.errorMessage]: clean(errorText(error), 2_048), [header.errorStack]: clean(stack, 5_900) }
}

const text = (value: unknown): string => (typeof value === 'string' ? value : '')

/** Text as a header may carry it: one line, well formed, cut to `bytes` of UTF-8. Line breaks of a stack become ` | `. */
function clean(given: string, bytes: number): string {
  const line = given
    .toWellFormed()
    .replaceAll('\0', '')
    .replaceAll(/\s*[\r\n]+\s*/g, ' | ')
    .trim()
  if (Buffer.byteLength(line) <= bytes) return line
  return Buffer.from(line).subarray(0, bytes).toString('utf8').replace(/�+$/, '').trim()
}
