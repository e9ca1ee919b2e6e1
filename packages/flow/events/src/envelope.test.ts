import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { readEnvelope, toMessage } from './envelope.ts'
import { defineEvent } from './event.ts'
import type { ReceivedMessage } from './message.ts'
import { createEventRegistry } from './registry.ts'
import { receivedMessage } from './testing.ts'

const Created = defineEvent('activity.created', {
  version: 2,
  topic: 'activities',
  schema: z.object({ id: z.string(), minutes: z.number() }),
  aggregateId: ({ id }) => id,
}).upcast(1, z.object({ id: z.string() }), ({ id }) => ({ id, minutes: 0 }))
const registry = createEventRegistry([Created])
const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
const made = Created(
  { id: 'a1', minutes: 30 },
  { id: 'e1', occurredAt: new Date('2026-03-04T05:06:07.890Z'), tenantId: 'acme', correlationId: 'c1', causationId: 'b1', traceparent, tracestate: 'v=1' },
)

const message = (headers: Record<string, string>, body: unknown, rest: Partial<ReceivedMessage> = {}): ReceivedMessage => ({
  id: 'm1',
  topic: 'activities',
  key: undefined,
  value: body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body) ?? ''),
  headers,
  timestamp: 1_000,
  idStable: true,
  ...rest,
})
const malformed = { code: 'ERR_EVENTS_ENVELOPE', retryable: false }

test('binary mode: the wire, to the byte', () => {
  const { value, ...rest } = toMessage(made)
  assert.deepEqual(rest, {
    id: 'e1',
    topic: 'activities',
    key: 'a1',
    timestamp: Date.parse('2026-03-04T05:06:07.890Z'),
    headers: {
      ce_specversion: '1.0',
      ce_id: 'e1',
      ce_source: '/activities',
      ce_type: 'activity.created',
      ce_time: '2026-03-04T05:06:07.890Z',
      ce_subject: 'a1',
      ce_dataversion: '2',
      'content-type': 'application/json',
      ce_tenantid: 'acme',
      ce_correlationid: 'c1',
      ce_causationid: 'b1',
      traceparent,
      tracestate: 'v=1',
    },
  })
  assert.equal(Buffer.from(value).toString(), '{"id":"a1","minutes":30}')
})

test('an event comes back equal', async () => {
  assert.deepEqual(await registry.decode(receivedMessage(made)), made)
})

test('correlation fills in what the event does not say, and a trace state never joins another trace', () => {
  const other = { tenantId: 'globex', correlationId: 'x', traceparent: traceparent.replace('0af', '1af'), tracestate: 'w=2' }
  const plain = toMessage(Created({ id: 'a', minutes: 1 }), { correlation: other }).headers!
  assert.deepEqual([plain['ce_tenantid'], plain['traceparent'], plain['tracestate']], ['globex', other.traceparent, 'w=2'])
  const own = toMessage(Created({ id: 'a', minutes: 1 }, { tenantId: 'acme', traceparent }), { correlation: other, source: '/api' }).headers!
  assert.deepEqual([own['ce_tenantid'], own['ce_correlationid'], own['traceparent'], own['tracestate']], ['acme', 'x', traceparent, undefined])
  assert.equal(own['ce_source'], '/api')
})

const attributes = {
  specversion: '1.0',
  id: 'e1',
  source: '/s',
  type: 'activity.created',
  dataversion: '2',
  subject: 'größe a',
  tenantid: 'acme',
  time: '2026-03-04T05:06:07.890Z',
}
const prefixed = (prefix: string, encode = (text: string) => text): Record<string, string> =>
  Object.fromEntries(Object.entries(attributes).map(([name, value]) => [prefix + name, encode(value)]))

for (const [what, headers, raw] of [
  ['ce_ (Kafka)', prefixed('ce_')],
  ['ce- (HTTP, NATS), percent-encoded', prefixed('ce-', encodeURIComponent)],
  ['Ce- in other case', prefixed('Ce-', encodeURIComponent)],
  ['cloudEvents_ (AMQP)', prefixed('cloudEvents_')],
  ['cloudEvents: (AMQP)', prefixed('cloudEvents:')],
  ['cloudEvents: among raw headers', { 'content-type': 'application/json' }, prefixed('cloudEvents:')],
] as [string, Record<string, string>, Record<string, string>?][]) {
  test(`reads attributes prefixed ${what}`, async () => {
    const rawHeaders = raw && Object.entries(raw).map(([name, value]) => [name, Buffer.from(value)] as const)
    const event = await registry.decode(message(headers, { id: 'a1', minutes: 3 }, { rawHeaders }))
    assert.deepEqual([event.id, event.aggregateId, event.key, event.tenantId, event.data.minutes], ['e1', 'größe a', 'größe a', 'acme', 3])
    assert.equal(event.occurredAt.toISOString(), attributes.time)
  })
}

test('reads structured JSON, with data as JSON or base64', async () => {
  const headers = { 'content-type': 'application/cloudevents+json; charset=utf-8' }
  const data = { id: 'a1', minutes: 3 }
  const inline = await registry.decode(message(headers, { ...attributes, dataversion: 2, data, traceparent }))
  assert.deepEqual([inline.id, inline.data, inline.traceparent], ['e1', data, traceparent])
  const encoded = await registry.decode(message(headers, { ...attributes, data_base64: Buffer.from(JSON.stringify(data)).toString('base64') }))
  assert.deepEqual(encoded.data, data)
})

test('what a message leaves out comes from the message: version 1, its id, key and time', async () => {
  const event = await registry.decode(message({ ce_type: 'activity.created' }, { id: 'a1' }, { key: 'k' }))
  assert.deepEqual([event.id, event.aggregateId, event.key, event.occurredAt.getTime(), event.version], ['m1', 'k', 'k', 1_000, 2])
  assert.deepEqual(event.data, { id: 'a1', minutes: 0 })
  const keyless = await registry.decode(message({ ce_type: 'activity.created' }, { id: 'a1' }))
  assert.equal(keyless.aggregateId, 'a1', 'then from the data')
})

test('data may be absent', async () => {
  const Started = defineEvent('started', { version: 1, schema: z.undefined(), topic: 't' })
  const event = Started(undefined, { aggregateId: 'a' })
  assert.equal(toMessage(event).value.length, 0)
  assert.deepEqual(await createEventRegistry([Started]).decode(receivedMessage(event)), event)
})

test('what is not CloudEvents 1.0 with JSON data is refused, never half-read', async () => {
  const type = { ce_type: 'activity.created' }
  const bad: [string, ReceivedMessage][] = [
    ['another specversion', message({ ...type, ce_specversion: '0.3' }, {})],
    ['a version that is no number', message({ ...type, ce_dataversion: '2.5' }, {})],
    ['a version of 0', message({ ...type, ce_dataversion: '0' }, {})],
    ['broken JSON', message(type, Buffer.from('{"id":'))],
    ['broken UTF-8', message(type, Buffer.from([0x22, 0xff, 0x22]))],
    ['another content type', message({ ...type, 'content-type': 'application/avro' }, {})],
    ['a batch', message({ 'content-type': 'application/cloudevents-batch+json' }, [])],
    ['a structured event that is an array', message({ 'content-type': 'application/cloudevents+json' }, [])],
    ['an id that no header can carry on', message({ ...type, ce_id: 'a\nb', ce_dataversion: '2' }, { id: 'a', minutes: 1 })],
  ]
  for (const [what, one] of bad) await assert.rejects(registry.decode(one), malformed, what)
})

test('a message without a type, or of an unknown one, says so', async () => {
  await assert.rejects(registry.decode(message({}, {})), { code: 'ERR_EVENTS_UNKNOWN', message: 'Message m1 does not say which event it is' })
  await assert.rejects(registry.decode(message({ ce_type: 'x.y' }, {})), { code: 'ERR_EVENTS_UNKNOWN', message: 'Unknown event x.y (message m1)' })
})

test('data that JSON cannot carry are refused', () => {
  const Big = defineEvent('big', { version: 1, schema: z.object({ n: z.bigint() }), topic: 't' })
  assert.throws(() => toMessage(Big({ n: 1n }, { aggregateId: 'a' })), /TypeError: Cannot encode the data of big as JSON/)
})

test('a bare percent sign in a ce- header is taken as it is', () => {
  assert.equal(readEnvelope(message({ 'ce-type': 'x', 'ce-subject': '100%' }, {})).subject, '100%')
})
