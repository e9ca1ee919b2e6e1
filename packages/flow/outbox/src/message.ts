import { isTime, shown } from '#internal/options'
import { uuidv7 } from '#internal/uuid'
import type { NewRow } from './store.ts'

/** A message to be published once the transaction commits. */
export interface OutboxMessage {
  /** Stays the same however often the message is sent. A UUIDv7 when absent. */
  id?: string | undefined
  topic: string
  /** Messages of one topic and key are published in sequence. Without a key there is no order. */
  key?: string | undefined
  value: Uint8Array
  /** Names `[a-z0-9_.-]{1,128}`, lower-cased; `cb-` is reserved. */
  headers?: Readonly<Record<string, string>> | undefined
  /** Ms since the epoch; the time of `add` by the database's clock when absent. */
  timestamp?: number | undefined
  /** Ms since the epoch; published once the database's clock has passed it. */
  deliverAt?: number | undefined
  /** Handed to the broker, which drops a second message with it where it can. */
  dedupeId?: string | undefined
}

const parts = 'id topic key value headers timestamp deliverAt dedupeId'.split(' ')
const known = new Set(parts)
/** What only messages have that came from a broker, or from its dead letters: these have more parts, and may be passed on. */
const received = ['idStable', 'attempt', 'letterId']

const topicName = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}$/
const headerName = /^[a-z0-9_.-]{1,128}$/
// eslint-disable-next-line no-control-regex
const badHeaderValue = /[\r\n\0]|^\s|\s$/

/** PostgreSQL's first day, 4714-11-24 BC; its last lies beyond JavaScript's. */
export const firstTime = -210_866_803_200_000

/** Checks and completes a message: what no broker would take must fail here, in the caller's hands, and not later in the relay. */
export function toRow(
  message: OutboxMessage,
  options: { key?: string | undefined; deliverAt?: number | undefined },
  now: number,
  { maxBytes, reservedSuffixes }: { maxBytes: number; reservedSuffixes: readonly string[] },
): NewRow {
  if (typeof message !== 'object' || message === null) throw new TypeError(`A message must be an object with topic, value, got ${shown(message)}`)
  const { topic, value, headers = {} } = message
  const { key = message.key, deliverAt } = options
  const messageId = text('id', message.id ?? uuidv7(now))
  if (typeof topic !== 'string' || !topicName.test(topic)) throw new RangeError(`topic must match ${topicName.source}, got ${JSON.stringify(topic)}`)
  const suffix = reservedSuffixes.find((reserved) => topic.endsWith(reserved))
  if (suffix !== undefined)
    throw new RangeError(
      `topic must not end in ${suffix}, which the broker keeps for its own; if yours does not, say so by reservedSuffixes. Got ${JSON.stringify(topic)}`,
    )
  if (!(value instanceof Uint8Array)) {
    const hint = 'occurredAt' in message ? '; an event? Use outbox.publisher(tx), or add what toMessage(event) gives' : ''
    throw new TypeError(`value of message ${messageId} must be a Uint8Array, got ${typeof value}${hint}`)
  }
  const { tombstone } = message as { tombstone?: unknown }
  if (tombstone === true)
    throw new TypeError(`The outbox has no tombstones: message ${messageId} would arrive as an ordinary empty one; publish it to the broker itself`)
  const passedOn = received.some((name) => name in message)
  for (const name in message)
    if (!known.has(name) && !passedOn && message[name as keyof OutboxMessage] !== undefined)
      throw new TypeError(`${name} is not a part of a message; there are ${parts.join(', ')}`)
  if (typeof headers !== 'object' || headers === null) throw new TypeError(`headers must be an object, got ${shown(headers)}`)
  if (key !== undefined) text('key', key)
  let bytes = value.byteLength + Buffer.byteLength(key ?? '')
  const lowered = new Map<string, string>()
  for (const [given, content] of Object.entries(headers)) {
    const name = given.toLowerCase()
    if (!headerName.test(name) || name.startsWith('cb-'))
      throw new RangeError(`Header name ${JSON.stringify(given)} must match ${headerName.source} in lower case and not begin with cb-`)
    if (lowered.has(name)) throw new RangeError(`Header ${JSON.stringify(name)} is given twice`)
    if (typeof content !== 'string') throw new TypeError(`Header ${name} must be a string, got ${typeof content}`)
    if (badHeaderValue.test(content) || !content.isWellFormed())
      throw new RangeError(`Header ${name} has a line break, NUL, a lone surrogate or an outer blank: ${JSON.stringify(content)}`)
    lowered.set(name, content)
    bytes += name.length + Buffer.byteLength(content)
  }
  if (bytes > maxBytes) throw new RangeError(`Message ${messageId} has ${bytes} bytes with its key and headers, at most ${maxBytes} are allowed`)
  return {
    messageId,
    topic,
    key,
    value,
    headers: lowered.size === 0 ? undefined : JSON.stringify(Object.fromEntries(lowered)),
    timestamp: time('timestamp', message.timestamp),
    dedupeId: message.dedupeId === undefined ? undefined : text('dedupeId', message.dedupeId),
    deliverAt: time('deliverAt', message.deliverAt ?? deliverAt),
  }
}

/** PostgreSQL stores no NUL in text, and would say so only when the caller's transaction is lost already (so with times below); a lone surrogate it would get as another character. */
export const isStorable = (text: string): boolean => !text.includes('\0') && text.isWellFormed()

function text(name: string, value: unknown): string {
  if (typeof value !== 'string') throw new TypeError(`${name} must be a string, got ${shown(value)}`)
  if (value === '' || value.length > 1_000 || !isStorable(value))
    throw new RangeError(`${name} must be 1 to 1,000 characters without NUL, got ${JSON.stringify(value.slice(0, 100))}`)
  return value
}

function time(name: string, value: number | undefined): number | undefined {
  if (value === undefined) return undefined
  isTime(value, name)
  if (value < firstTime) throw new RangeError(`${name} must not lie before PostgreSQL's first day (${firstTime}), got ${value}`)
  return value
}
