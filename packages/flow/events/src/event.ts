import { checkOptions, integer, isFunction, isSchema, isString, shown } from '#internal/options'
import { errorText } from '#internal/thrown'
import { uuidv7 } from '#internal/uuid'
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { EventError } from './errors.ts'
import { defineChecks, eventChecks } from './options.ts'

/** Whom an event belongs to and what led to it; carried from an event to those that follow from it. */
export interface Correlation {
  readonly tenantId?: string | undefined
  /** The same for everything that follows from one request. */
  readonly correlationId?: string | undefined
  /** The id of the event, or command, that led directly to this one. */
  readonly causationId?: string | undefined
  /** W3C Trace Context. */
  readonly traceparent?: string | undefined
  readonly tracestate?: string | undefined
}

/** Something that happened. Frozen, `data` with all plain objects and arrays in it. */
export interface DomainEvent<Name extends string = string, Data = unknown> extends Required<Correlation> {
  /** UUIDv7; also the id of the message, by which inboxes know a duplicate. */
  readonly id: string
  readonly name: Name
  /** Of `data`: what handlers see is always the latest. */
  readonly version: number
  readonly topic: string
  /** Events of one key are handled in order. */
  readonly key: string
  readonly aggregateId: string
  readonly occurredAt: Date
  readonly data: Data
}

/** What a factory takes beside the data; pass `ctx.correlation` in a handler. */
export interface EventOptions extends Correlation {
  /** @default a new UUIDv7 */
  readonly id?: string | undefined
  /** @default now */
  readonly occurredAt?: Date | undefined
  /** @default what the definition's `aggregateId` makes of the data */
  readonly aggregateId?: string | undefined
}

/** One version of an event's data. */
export interface EventVersion {
  readonly version: number
  readonly schema: StandardSchemaV1
  /** From this version's data to the next one's; absent at the latest. */
  readonly upcast?: ((data: never) => unknown) | undefined
}

/** An event's type: call it to make one. `Input` is what its schema takes, `Data` what it returns. */
export interface EventDefinition<Name extends string = string, Data = unknown, Input = Data> {
  /** Validates and returns the frozen event. Throws {@link EventError} `ERR_EVENTS_INVALID`; `TypeError` when the schema is asynchronous or the aggregate id is missing. */
  (data: Input, options?: EventOptions): DomainEvent<Name, Data>
  /** The same for schemas that validate asynchronously; takes the others too. */
  createAsync(data: Input, options?: EventOptions): Promise<DomainEvent<Name, Data>>
  readonly name: Name
  /** The latest. */
  readonly version: number
  readonly topic: string
  readonly description: string | undefined
  /** The latest first. */
  readonly versions: readonly EventVersion[]
  /** The aggregate's id as the definition reads it from the data. */
  aggregateIdOf(data: never): string | undefined
  /** The key likewise. */
  keyOf(data: never): string | undefined
}

/** A definition of whatever event. */
export type AnyEventDefinition = EventDefinition<string, unknown, never>

/** A definition that older versions can still be added to; `Oldest` is what the oldest one's schema takes. */
export interface UpcastableDefinition<Name extends string, Data, Input, Oldest> extends EventDefinition<Name, Data, Input> {
  /**
   * Says how data of `version`, the one before the oldest so far, become the next one's: `defineEvent(…version 3…).upcast(2, V2, to3).upcast(1, V1, to2)`.
   * Each step is validated by its own schema before and by the next one's after.
   */
  upcast<S extends StandardSchemaV1>(
    version: number,
    schema: S,
    up: (data: StandardSchemaV1.InferOutput<S>) => Oldest,
  ): UpcastableDefinition<Name, Data, Input, StandardSchemaV1.InferInput<S>>
}

/** The event that a definition makes: `EventOf<typeof ActivityCreated>`. */
export type EventOf<D> = D extends (data: never, options?: EventOptions) => infer E ? E : never

/** What an event is, beside its name. */
export interface DefineOptions<S extends StandardSchemaV1> {
  /** Of the data's shape, from 1. */
  version: number
  /** Any Standard Schema. It must take what it returns once more after JSON: `z.coerce.date()`, not `z.date()`. */
  schema: S
  /** The aggregate's stream: events of an aggregate on several topics lose their order. */
  topic: string
  /** @default `key` */
  aggregateId?: ((data: StandardSchemaV1.InferOutput<S>) => string) | undefined
  /** @default `aggregateId` */
  key?: ((data: StandardSchemaV1.InferOutput<S>) => string) | undefined
  /** For the documents made from the registry. */
  description?: string | undefined
}

/** Defines an event: its name, the schema of its latest version, the topic that it travels on. */
export function defineEvent<const Name extends string, S extends StandardSchemaV1>(
  name: Name,
  options: DefineOptions<S>,
): UpcastableDefinition<Name, StandardSchemaV1.InferOutput<S>, StandardSchemaV1.InferInput<S>, StandardSchemaV1.InferInput<S>> {
  isString(name, "An event's name")
  checkOptions(name, options, defineChecks, ['version', 'schema', 'topic'])
  const { version, schema, topic, description } = options
  if (!/^[A-Za-z0-9][\w.:/-]{0,199}$/.test(name)) throw new RangeError(`An event's name has 1 to 200 of A-Z a-z 0-9 _ . : / -, got ${JSON.stringify(name)}`)
  return definition({
    name,
    topic,
    description,
    versions: [{ version, schema }],
    aggregateIdOf: options.aggregateId ?? options.key ?? (() => undefined),
    keyOf: options.key ?? (() => undefined),
  }) as unknown as ReturnType<typeof defineEvent<Name, S>>
}

/** What every version of an event shares. */
type Identity = Pick<AnyEventDefinition, 'name' | 'topic' | 'description' | 'versions' | 'aggregateIdOf' | 'keyOf'>

function definition(identity: Identity): AnyEventDefinition {
  const { name, versions } = identity
  const { version, schema } = versions[0]!
  const create = (data: unknown, options?: EventOptions): DomainEvent => {
    const checked = validate(name, version, schema, data)
    if (!(checked instanceof Promise)) return made(self, checked, options)
    checked.catch(() => {}) // the caller hears of the misuse instead
    throw new TypeError(`The schema of ${name} is asynchronous: use createAsync`)
  }
  const self = Object.defineProperties(create, {
    ...Object.fromEntries(Object.entries({ ...identity, version }).map(([key, value]) => [key, { value, enumerable: true }])),
    createAsync: { value: async (data: unknown, options?: EventOptions) => made(self, await validate(name, version, schema, data), options) },
    upcast: {
      value: (from: number, schema: StandardSchemaV1, upcast: (data: never) => unknown) => {
        const oldest = versions.at(-1)!.version
        integer(1)(from, `${name}: version`)
        isSchema(schema, `${name}: schema of version ${from}`)
        isFunction(upcast, `${name}: upcaster of version ${from}`)
        if (oldest === 1) throw new RangeError(`${name} has no version before 1 to bring up to date`)
        if (from !== oldest - 1)
          throw new RangeError(`Upcasters go from the newest version to the oldest: the next one of ${name} is from ${oldest - 1}, got ${from}`)
        return definition({ ...identity, versions: [...versions, { version: from, schema, upcast }] })
      },
    },
  }) as unknown as AnyEventDefinition
  return Object.freeze(self)
}

/** Data of any version to the latest's, synchronously unless a schema is not. Throws or rejects with {@link EventError}. */
export function toLatest(definition: AnyEventDefinition, version: number, data: unknown): unknown {
  const { versions, name } = definition
  const index = definition.version - version
  if (index < 0) {
    throw new EventError(
      'ERR_EVENTS_VERSION',
      `${name} has version ${version}, newer than ${definition.version}: update this service, then replay the dead letter`,
    )
  }
  if (index >= versions.length) throw new EventError('ERR_EVENTS_VERSION', `${name} has version ${version}, for which no upcaster is defined`)
  return climb(definition, index, data)
}

function climb(definition: AnyEventDefinition, index: number, data: unknown): unknown {
  const { version, schema, upcast } = definition.versions[index]!
  const checked = validate(definition.name, version, schema, data)
  if (!upcast) return checked
  const step = (valid: unknown): unknown => climb(definition, index - 1, raised(definition.name, version, upcast, valid))
  return checked instanceof Promise ? checked.then(step) : step(checked)
}

function raised(name: string, version: number, upcast: (data: never) => unknown, data: unknown): unknown {
  try {
    return upcast(data as never)
  } catch (cause) {
    throw new EventError('ERR_EVENTS_INVALID', `The upcaster of ${name} from version ${version} failed: ${errorText(cause)}`, { cause })
  }
}

/** The schema's output, deeply frozen: handlers share it. */
function validate(name: string, version: number, schema: StandardSchemaV1, data: unknown): unknown {
  const accept = (result: StandardSchemaV1.Result<unknown>): unknown => {
    if (!result.issues) return deepFreeze(result.value)
    const issues = result.issues.map(({ path = [], message }) => ({
      path: path.map((part) => String(typeof part === 'object' ? part.key : part)).join('.'),
      message,
    }))
    const text = issues.map(({ path, message }) => (path ? `${path}: ${message}` : message)).join('; ')
    throw new EventError('ERR_EVENTS_INVALID', `${name} version ${version} is invalid: ${text}`, { issues })
  }
  const fail = (cause: unknown): never => {
    if (cause instanceof EventError) throw cause
    throw new EventError('ERR_EVENTS_INVALID', `The schema of ${name} version ${version} failed: ${errorText(cause)}`, { cause })
  }
  try {
    const result = schema['~standard'].validate(data)
    return result instanceof Promise ? result.then(accept).catch(fail) : accept(result)
  } catch (cause) {
    return fail(cause)
  }
}

function made(definition: AnyEventDefinition, data: unknown, options: EventOptions = {}): DomainEvent {
  const { name, version, topic } = definition
  checkOptions(name, options, eventChecks)
  const aggregateId = options.aggregateId ?? definition.aggregateIdOf(data as never)
  if (aggregateId === undefined) throw new TypeError(`${name} has no aggregateId: give it in the definition or to the factory`)
  const key = definition.keyOf(data as never) ?? aggregateId
  const occurredAt = options.occurredAt ?? new Date()
  return event({ id: options.id ?? uuidv7(), name, version, topic, key, aggregateId, occurredAt, data }, options)
}

/** All fields in one order, so that every event has one hidden class. */
export function event(fields: Omit<DomainEvent, keyof Correlation>, correlation: Correlation): DomainEvent {
  const { id, name, version, topic, key, aggregateId, occurredAt, data } = fields
  if (!(occurredAt instanceof Date)) throw new TypeError(`${name}: occurredAt must be a Date, got ${shown(occurredAt)}`)
  if (Number.isNaN(occurredAt.getTime())) throw new RangeError(`${name}: occurredAt must be a time, got an invalid Date`)
  // First, since the key is the same unless it is given: the fault is the id's.
  const subject = header(`${name}: aggregateId`, aggregateId)!
  return Object.freeze({
    id: header(`${name}: id`, id)!,
    name,
    version,
    topic,
    key: header(`${name}: key`, key)!,
    aggregateId: subject,
    occurredAt,
    tenantId: header(`${name}: tenantId`, correlation.tenantId),
    correlationId: header(`${name}: correlationId`, correlation.correlationId),
    causationId: header(`${name}: causationId`, correlation.causationId),
    // An unreadable trace context is dropped, as W3C Trace Context asks.
    traceparent: traceparent.test(correlation.traceparent ?? '') ? correlation.traceparent : undefined,
    tracestate: printable.test(correlation.tracestate ?? '') ? correlation.tracestate : undefined,
    data,
  })
}

const traceparent = /^[\da-f]{2}-[\da-f]{32}-[\da-f]{16}-[\da-f]{2}(-|$)/
const printable = /^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/
// oxlint-disable-next-line no-control-regex -- control characters are what it is for
const safe = /^[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$/

/** These travel as headers. Refused here, and not by the broker when the transaction has long committed. */
function header(name: string, value: string | undefined): string | undefined {
  if (value === undefined) return undefined
  if (typeof value !== 'string' || !safe.test(value) || !value.isWellFormed()) {
    throw new TypeError(`${name} must be text without control characters and outer blanks, got ${JSON.stringify(value)}`)
  }
  return value
}

/** Plain objects and arrays only: a Date or a Map is its class's own business. */
function deepFreeze(data: unknown): unknown {
  // What is frozen already is looked into too, once: it may have been frozen by the caller, and only at its top.
  let seen: Set<object> | undefined
  const freeze = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return
    const prototype: unknown = Object.getPrototypeOf(value)
    if (prototype !== Object.prototype && prototype !== Array.prototype && prototype !== null) return
    if (!Object.isFrozen(value)) Object.freeze(value)
    else if (seen?.has(value)) return
    else (seen ??= new Set()).add(value)
    for (const key in value) freeze((value as Record<string, unknown>)[key])
  }
  freeze(data)
  return data
}
