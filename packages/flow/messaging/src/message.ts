import { isBoolean, isSchema, isString, isTime, shown } from '#internal/options'
import { errorText } from '#internal/thrown'
import { isCodec, isDelay } from './options.ts'

/** A message to publish. */
export interface MessageInput {
  topic: string
  /** Decides the partition; messages of one key keep their order. */
  key?: string | undefined
  value: Uint8Array
  /** Names `[a-z0-9_.-]{1,128}`, lower-cased; values without CR, LF, NUL, lone surrogates and outer blanks. `cb-` is reserved. */
  headers?: Readonly<Record<string, string>> | undefined
  /** @default a UUIDv7 */
  id?: string | undefined
  /** ms since the epoch. @default now */
  timestamp?: number | undefined
  /** Not before this time, ms since the epoch. */
  deliverAt?: number | undefined
  /** Not before this many ms from now. */
  delayMs?: number | undefined
  /** Within the broker's window, a second message with the same value on the same topic is confirmed and not stored. Never defaulted from `id`. */
  dedupeId?: string | undefined
  /** A null body, as compacted topics have it; `value` must be empty. */
  tombstone?: boolean | undefined
}

const fields = 'topic key value headers id timestamp deliverAt delayMs dedupeId tombstone'.split(' ')
const known = new Set(fields)

/** Throws for what is no message, for names that are none of its parts, and for parts of the wrong type; runs for every message. */
export function checkMessage(input: MessageInput): void {
  if (typeof input !== 'object' || input === null || Array.isArray(input))
    throw new TypeError(`A message must be an object with topic, value, got ${shown(input)}${Array.isArray(input) ? ': publishBatch takes many' : ''}`)
  const { topic, key, value, headers, id, timestamp, deliverAt, delayMs, dedupeId, tombstone } = input
  if (typeof topic === 'function' && 'build' in input) throw new TypeError('A message must be an object with topic, value, got a builder: call its build()')
  if (topic === undefined) {
    checkNames(input) // it may be there under a misspelt name
    throw new TypeError('A message must have a topic')
  }
  if (!(value instanceof Uint8Array))
    throw new TypeError(`The body of a message to ${topic} must be a Uint8Array, got ${shown(value)}; use message().json(body) or a codec`)
  checkNames(input)
  if (key !== undefined) isString(key, 'message.key')
  if (headers !== undefined && (typeof headers !== 'object' || headers === null || Symbol.iterator in headers))
    throw new TypeError(`message.headers must be an object of strings, got ${shown(headers)}`)
  if (id !== undefined) isString(id, 'message.id')
  if (id === '') throw new RangeError('message.id must not be empty: leave it away, or give one that tells messages apart')
  if (deliverAt !== undefined && delayMs !== undefined) throw new TypeError('A message has deliverAt or delayMs, not both')
  if (timestamp !== undefined) isTime(timestamp, 'message.timestamp')
  if (deliverAt !== undefined) isTime(deliverAt, 'message.deliverAt')
  if (delayMs !== undefined) isDelay(delayMs, 'message.delayMs')
  if (dedupeId !== undefined) isString(dedupeId, 'message.dedupeId')
  if (tombstone !== undefined) isBoolean(tombstone, 'message.tombstone')
}

function checkNames(input: MessageInput): void {
  for (const name in input)
    // What was received, peeked at or a dead letter has more, and may be published again.
    if (!known.has(name) && !('idStable' in input || 'letterId' in input) && input[name as keyof MessageInput] !== undefined)
      throw new TypeError(`${name} is not a part of a message; there are ${fields.join(', ')}`)
}

/** A message as a handler gets it. `T` is what the subscription's codec made of the body; without a codec it is the bytes. */
export interface Message<T = Uint8Array> {
  readonly id: string
  /** False where the id is derived and another delivery may get another one; an inbox refuses it unless told how. */
  readonly idStable: boolean
  readonly topic: string
  readonly key: string | undefined
  readonly value: Uint8Array
  readonly body: T
  readonly headers: Readonly<Record<string, string>>
  /** When it was published, ms since the epoch by the publisher's clock. */
  readonly timestamp: number
  /** 1 at the first run; failed runs known so far plus one. */
  readonly attempt: number
  readonly tombstone: boolean
  /** What a message from elsewhere has beyond our grammar; it reaches the dead letter byte-equal. */
  readonly rawKey: Uint8Array | undefined
  readonly rawHeaders: ReadonlyArray<readonly [name: string, value: Uint8Array]> | undefined
}

/** How bodies become bytes and back. `decode` may throw: such a message goes to the dead letters at once. */
export interface Codec<T> {
  /** Written to the `content-type` header. */
  readonly contentType: string | undefined
  encode(body: T): Uint8Array
  decode(value: Uint8Array, headers: Readonly<Record<string, string>>): T | Promise<T>
}

/** Any Standard Schema (zod, valibot, arktype …), in the words of standardschema.dev. */
export interface SchemaLike<Output = unknown> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined
  }
}
type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: ReadonlyArray<{ readonly message: string; readonly path?: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined }> }

const strictUtf8 = new TextDecoder('utf-8', { fatal: true })

/** Bytes as they are. */
export const raw: Codec<Uint8Array> = { contentType: undefined, encode: (body) => body, decode: (value) => value }

/** JSON, checked by a schema on the way in when one is given. Throws `TypeError` for what is no Standard Schema. */
export function json<T = unknown>(schema?: SchemaLike<T>): Codec<T> {
  if (schema !== undefined) isSchema(schema, 'json: schema')
  return {
    contentType: 'application/json',
    encode: (body) => jsonBytes(body),
    decode: (value) => {
      const body: unknown = JSON.parse(strictUtf8.decode(value))
      if (!schema) return body as T
      const result = schema['~standard'].validate(body)
      return result instanceof Promise ? result.then(accepted) : accepted(result)
    },
  }
}

function accepted<T>(result: SchemaResult<T>): T {
  if (!result.issues) return result.value
  const issues = result.issues.map(({ message, path = [] }) => {
    const where = path.map((step) => String(typeof step === 'object' ? step.key : step)).join('.')
    return where === '' ? message : `${where}: ${message}`
  })
  throw new TypeError(`Body does not match its schema: ${issues.join('; ')}`)
}

function jsonBytes(body: unknown, topic?: string): Uint8Array {
  const text = body instanceof Promise || body instanceof Map || body instanceof Set ? undefined : jsonText(body, topic)
  if (text === undefined) throw new TypeError(`Not a JSON value: ${shown(body)}${body instanceof Promise ? '; is an await missing?' : ''}`)
  return Buffer.from(text)
}

function jsonText(body: unknown, topic: string | undefined): string | undefined {
  try {
    return JSON.stringify(body)
  } catch (cause) {
    const [why = ''] = errorText(cause).split('\n') // of a circle the way follows
    const hint = why.includes('BigInt') ? '; give a bigint as a string' : ''
    throw new TypeError(`Cannot write the body of a message${topic === undefined ? '' : ` to ${topic}`} as JSON: ${why}${hint}`, { cause })
  }
}

/** A fluent way to write a message: `message().topic('user-events').key('user-123').json({ … }).header('event_type', 'user.created').build()`. */
export interface MessageBuilder {
  topic(topic: string): MessageBuilder
  key(key: string): MessageBuilder
  id(id: string): MessageBuilder
  value(value: Uint8Array | string): MessageBuilder
  /** Throws `TypeError` for what is no JSON value, such as a bigint. */
  json(body: unknown): MessageBuilder
  /** The body as a codec writes it, and its content type. */
  body<T>(codec: Codec<T>, body: T): MessageBuilder
  header(name: string, value: string): MessageBuilder
  headers(headers: Readonly<Record<string, string>>): MessageBuilder
  /** ms from now. */
  delay(ms: number): MessageBuilder
  deliverAt(time: Date | number): MessageBuilder
  dedupeId(id: string): MessageBuilder
  /** Throws `TypeError` without a topic or a body. */
  build(): MessageInput
}

/** Starts a message. Every step gives a new builder, so a half-built one can be kept and reused. */
export function message(parts: Partial<MessageInput> = {}): MessageBuilder {
  const set = (more: Partial<MessageInput>): MessageBuilder => message({ ...parts, ...more })
  const withBody = (value: Uint8Array, contentType: string | undefined): MessageBuilder =>
    set({ value, ...(contentType === undefined ? {} : { headers: { 'content-type': contentType, ...parts.headers } }) })
  return {
    topic: (topic) => set({ topic }),
    key: (key) => set({ key }),
    id: (id) => set({ id }),
    value: (value) => set({ value: typeof value === 'string' ? Buffer.from(value) : value }),
    json: (body) => withBody(jsonBytes(body, parts.topic), 'application/json'),
    body: (codec, body) => {
      isCodec(codec, 'body: codec')
      return withBody(codec.encode(body), codec.contentType)
    },
    header: (name, value) => set({ headers: { ...parts.headers, [name]: value } }),
    headers: (headers) => set({ headers: { ...parts.headers, ...headers } }),
    delay: (delayMs) => {
      isDelay(delayMs, 'delay')
      return set({ delayMs })
    },
    deliverAt: (time) => {
      const deliverAt = time instanceof Date ? time.getTime() : time
      isTime(deliverAt, 'deliverAt')
      return set({ deliverAt })
    },
    dedupeId: (dedupeId) => set({ dedupeId }),
    build: () => {
      const { topic, value } = parts
      if (topic === undefined) throw new TypeError('A message needs a topic: message().topic(name)')
      if (value === undefined) throw new TypeError(`A message to ${topic} needs a body: .json(body), .value(bytes) or .body(codec, body)`)
      return { ...parts, topic, value }
    },
  }
}
