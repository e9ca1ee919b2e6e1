import { checkOptions } from '#internal/options'
import { EventError } from './errors.ts'
import { event, toLatest } from './event.ts'
import type { Correlation, DomainEvent, AnyEventDefinition } from './event.ts'
import type { OutgoingMessage, ReceivedMessage } from './message.ts'
import { assertEvent, messageChecks } from './options.ts'

/** What CloudEvents 1.0 says about a message, before its data are looked at. */
export interface Envelope extends Correlation {
  readonly id: string
  /** The event's name; `''` when the message does not say. */
  readonly type: string
  /** Extension attribute `dataversion`; 1 when absent. */
  readonly version: number
  /** The aggregate's id. */
  readonly subject: string | undefined
  /** Ms since the epoch. */
  readonly time: number | undefined
  /** The data, still to be validated. Throws {@link EventError} `ERR_EVENTS_ENVELOPE` when they are not JSON. */
  data(): unknown
}

/**
 * The event as a message in CloudEvents' binary mode: attributes in `ce_…` headers (the Kafka binding's names, on every broker), JSON data as the value.
 * Correlation is what to fill in where the event has none. Throws `TypeError` when JSON cannot carry the data.
 */
export function toMessage(event: DomainEvent, options: { source?: string; correlation?: Correlation } = {}): OutgoingMessage {
  assertEvent(event)
  checkOptions('toMessage', options, messageChecks)
  const { source = `/${event.topic}`, correlation = {} } = options
  const headers: Record<string, string> = {
    ce_specversion: '1.0',
    ce_id: event.id,
    ce_source: source,
    ce_type: event.name,
    ce_time: event.occurredAt.toISOString(),
    ce_subject: event.aggregateId,
    ce_dataversion: String(event.version),
    'content-type': plainJson,
  }
  const set = (name: string, value: string | undefined): void => {
    if (value !== undefined) headers[name] = value
  }
  set('ce_tenantid', event.tenantId ?? correlation.tenantId)
  set('ce_correlationid', event.correlationId ?? correlation.correlationId)
  set('ce_causationid', event.causationId ?? correlation.causationId)
  // A tracestate belongs to its traceparent, so both come from one place. Without `ce_`: tracers know these two by their own names.
  const trace = event.traceparent === undefined ? correlation : event
  set('traceparent', trace.traceparent)
  set('tracestate', trace.tracestate)
  return { id: event.id, topic: event.topic, key: event.key, value: encode(event), headers, timestamp: event.occurredAt.getTime() }
}

function encode({ name, data }: DomainEvent): Uint8Array {
  try {
    return Buffer.from(JSON.stringify(data) ?? '')
  } catch (cause) {
    throw new TypeError(`Cannot encode the data of ${name} as JSON`, { cause })
  }
}

/** Reads binary mode under any of the bindings' prefixes and structured JSON. Throws {@link EventError} `ERR_EVENTS_ENVELOPE`. */
export function readEnvelope(message: ReceivedMessage): Envelope {
  const known = bindingOf(message.headers)
  const headers = known ? message.headers : foreign(message)
  const contentType = headers['content-type'] ?? plainJson
  if (contentType !== plainJson) {
    if (/^application\/cloudevents\+json\b/i.test(contentType)) return structured(message, headers)
    if (/^application\/cloudevents/i.test(contentType)) throw malformed(message, `content type ${contentType} is not supported`)
  }
  const binding = known ?? bindingOf(headers)
  const attribute = (name: Attribute): string | undefined => {
    const value = binding && headers[binding.names[name]]
    return binding?.percent ? decodePercent(value) : value
  }
  return envelope(message, headers, attribute, () => json(message, contentType))
}

const plainJson = 'application/json'
const attributes = [
  'specversion',
  'id',
  'type',
  'time',
  'subject',
  'dataversion',
  'tenantid',
  'correlationid',
  'causationid',
  'traceparent',
  'tracestate',
] as const
type Attribute = (typeof attributes)[number]

/** How each protocol's binding spells the attributes' headers; spelled out once, since joining texts is most of what reading costs. */
const bindings = ['ce_', 'ce-', 'cloudevents:', 'cloudevents_'].map((prefix) => ({
  names: Object.fromEntries(attributes.map((name) => [name, prefix + name])) as Record<Attribute, string>,
  percent: prefix === 'ce-', // the HTTP and NATS bindings encode values by percent, the others do not
}))

function bindingOf(headers: Readonly<Record<string, string>>): (typeof bindings)[number] | undefined {
  return bindings.find(({ names }) => headers[names.type] !== undefined)
}

/** All headers in lower case, with those whose names the broker's grammar refuses. */
function foreign({ headers, rawHeaders = [] }: ReceivedMessage): Readonly<Record<string, string>> {
  const decoded = rawHeaders.map(([name, value]) => [name, Buffer.from(value).toString()] as const)
  return Object.fromEntries([...decoded, ...Object.entries(headers)].map(([name, value]) => [name.toLowerCase(), value]))
}

function structured(message: ReceivedMessage, headers: Readonly<Record<string, string>>): Envelope {
  const body = parse(message)
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw malformed(message, 'a structured event must be a JSON object')
  const fields = body as Record<string, unknown>
  const attribute = (name: string): string | undefined => {
    const value = fields[name]
    return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : undefined
  }
  const data = (): unknown => {
    if (fields['data_base64'] === undefined) return fields['data']
    return json({ ...message, value: Buffer.from(attribute('data_base64') ?? '', 'base64') }, attribute('datacontenttype') ?? plainJson)
  }
  return envelope(message, headers, attribute, data)
}

function envelope(
  message: ReceivedMessage,
  headers: Readonly<Record<string, string>>,
  attribute: (name: Attribute) => string | undefined,
  data: () => unknown,
): Envelope {
  const specversion = attribute('specversion') ?? '1.0'
  if (specversion !== '1.0') throw malformed(message, `CloudEvents ${specversion} is not 1.0`)
  const version = attribute('dataversion') ?? '1'
  if (!/^[1-9]\d{0,8}$/.test(version)) throw malformed(message, `dataversion ${JSON.stringify(version)} is not a positive integer`)
  const time = Date.parse(attribute('time') ?? '')
  const traceparent = headers['traceparent'] ?? attribute('traceparent')
  return {
    id: attribute('id') ?? message.id,
    type: attribute('type') ?? '',
    version: Number(version),
    subject: attribute('subject'),
    time: Number.isNaN(time) ? undefined : time,
    tenantId: attribute('tenantid'),
    correlationId: attribute('correlationid'),
    causationId: attribute('causationid'),
    traceparent,
    tracestate: headers['tracestate'] ?? attribute('tracestate'),
    data,
  }
}

/** The message's event in its latest version; a promise only where a schema is asynchronous. Throws or rejects with {@link EventError}. */
export function decode(definition: AnyEventDefinition, message: ReceivedMessage, envelope: Envelope): DomainEvent | Promise<DomainEvent> {
  const build = (data: unknown): DomainEvent => {
    const aggregateId = envelope.subject ?? message.key ?? definition.aggregateIdOf(data as never) ?? envelope.id
    const { name, version, topic } = definition
    const occurredAt = new Date(envelope.time ?? message.timestamp)
    try {
      return event({ id: envelope.id, name, version, topic, key: message.key ?? aggregateId, aggregateId, occurredAt, data }, envelope)
    } catch (cause) {
      throw malformed(message, (cause as Error).message)
    }
  }
  const data = toLatest(definition, envelope.version, envelope.data())
  return data instanceof Promise ? data.then(build) : build(data)
}

function json(message: ReceivedMessage, contentType: string): unknown {
  if (contentType !== plainJson && !/^[^;]*[/+]json\b/i.test(contentType)) throw malformed(message, `content type ${contentType} is not JSON`)
  return message.value.length === 0 ? undefined : parse(message)
}

const utf8 = new TextDecoder('utf-8', { fatal: true })

function parse(message: ReceivedMessage): unknown {
  try {
    return JSON.parse(utf8.decode(message.value))
  } catch (cause) {
    throw malformed(message, (cause as Error).message, cause)
  }
}

function decodePercent(value: string | undefined): string | undefined {
  try {
    return value?.includes('%') ? decodeURIComponent(value) : value
  } catch {
    return value // a bare percent sign, from a writer that does not encode
  }
}

function malformed(message: ReceivedMessage, why: string, cause?: unknown): EventError {
  const from = message.topic === '' ? '' : ` of ${message.topic}` // bytes handed over without a message have none
  return new EventError('ERR_EVENTS_ENVELOPE', `Cannot read message ${message.id}${from} as an event: ${why}`, { cause })
}
