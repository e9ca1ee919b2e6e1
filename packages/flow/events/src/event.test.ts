import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as v from 'valibot'
import { z } from 'zod'
import { EventError } from './errors.ts'
import { defineEvent, type DomainEvent, type EventDefinition, type EventOf, toLatest } from './event.ts'

const V1 = z.object({ id: z.string(), minutes: z.number() })
const V2 = z.object({ id: z.string(), durationMinutes: z.number() })
const V3 = z.object({ id: z.string(), durationMinutes: z.number(), type: z.string() })

const Created = defineEvent('activity.created', { version: 3, schema: V3, topic: 'activities', aggregateId: (activity) => activity.id })
  .upcast(2, V2, (old) => ({ ...old, type: 'other' }))
  .upcast(1, V1, ({ id, minutes }) => ({ id, durationMinutes: minutes }))

const code = (expected: string, message?: RegExp) => (error: unknown) => {
  assert.ok(error instanceof EventError, String(error))
  assert.equal(error.code, expected)
  if (message) assert.match(error.message, message)
  return true
}

test('the factory gives an event with everything in it, frozen to the bottom', () => {
  const Shared = defineEvent('photo.shared', {
    version: 1,
    topic: 'photos',
    schema: z.object({ id: z.string(), tags: z.array(z.object({ name: z.string() })) }),
    aggregateId: (photo) => photo.id,
  })
  const before = Date.now()
  const event = Shared({ id: 'p1', tags: [{ name: 'sea' }] }, { tenantId: 'acme', correlationId: 'c', causationId: 'b' })
  assert.match(event.id, /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/)
  assert.ok(event.occurredAt.getTime() >= before)
  const { id: _, occurredAt: __, ...rest } = event
  assert.deepEqual(rest, {
    name: 'photo.shared',
    version: 1,
    topic: 'photos',
    key: 'p1',
    aggregateId: 'p1',
    tenantId: 'acme',
    correlationId: 'c',
    causationId: 'b',
    traceparent: undefined,
    tracestate: undefined,
    data: { id: 'p1', tags: [{ name: 'sea' }] },
  })
  assert.throws(() => event.data.tags.push({ name: 'x' }), TypeError)
  assert.throws(() => Object.assign(event.data.tags[0]!, { name: 'x' }), TypeError)
  assert.throws(() => Object.assign(event, { id: 'x' }), TypeError)
})

test('data that the caller had frozen at the top are frozen to the bottom too, also where they go in circles', () => {
  const Any = defineEvent('any', { version: 1, topic: 't', schema: z.any(), aggregateId: () => 'a' })
  const circle: { list: { n: number }[]; own?: object } = { list: [{ n: 1 }] }
  circle.own = Object.freeze({ circle })
  const { data } = Any(Object.freeze({ inner: { n: 1 }, circle })) as { data: { inner: { n: number }; circle: typeof circle } }
  for (const object of [data.inner, data.circle, data.circle.list, data.circle.list[0]]) assert.ok(Object.isFrozen(object))
})

test('types: data, name and input are inferred', () => {
  type Made = EventOf<typeof Created>
  const event: DomainEvent<'activity.created', { id: string; durationMinutes: number; type: string }> = Created({ id: 'a', durationMinutes: 1, type: 'yoga' })
  const same: Made = event
  const name: 'activity.created' = same.name
  const annotated: EventDefinition<'activity.created', Made['data']> = Created
  assert.equal(annotated(event.data).data.type, 'yoga')
  assert.equal(name, 'activity.created')
  // @ts-expect-error -- a field is missing
  assert.throws(() => Created({ id: 'a' }), code('ERR_EVENTS_INVALID'))
  // @ts-expect-error -- not what version 2 takes
  defineEvent('x', { version: 2, schema: V2, topic: 't' }).upcast(1, V1, ({ id, minutes }) => ({ id, minutes }))
})

test('invalid data are refused with every issue and its path', () => {
  assert.throws(
    () => Created({ id: 1, durationMinutes: 'x', type: 'yoga' } as never),
    (error: unknown) => {
      assert.ok(error instanceof EventError)
      assert.equal(error.code, 'ERR_EVENTS_INVALID')
      assert.equal(error.retryable, false)
      assert.deepEqual(
        error.issues.map(({ path }) => path),
        ['id', 'durationMinutes'],
      )
      assert.match(error.message, /^activity\.created version 3 is invalid: id: /)
      return true
    },
  )
})

test('key and aggregate id stand in for each other, and the caller may name the aggregate', () => {
  const schema = z.object({ id: z.string(), owner: z.string() })
  const data = { id: 'i', owner: 'o' }
  const onlyKey = defineEvent('a', { version: 1, schema, topic: 't', key: ({ owner }) => owner })(data)
  const both = defineEvent('b', { version: 1, schema, topic: 't', aggregateId: ({ id }) => id, key: ({ owner }) => owner })(data)
  const Neither = defineEvent('c', { version: 1, schema, topic: 't' })
  const given = Neither(data, { aggregateId: 'g' })
  assert.deepEqual([onlyKey.key, onlyKey.aggregateId], ['o', 'o'])
  assert.deepEqual([both.key, both.aggregateId], ['o', 'i'])
  assert.deepEqual([given.key, given.aggregateId], ['g', 'g'])
  assert.throws(() => Neither(data), /TypeError: c has no aggregateId/)
})

test('what no header can carry is refused when the event is made, a bad trace context is dropped', () => {
  const data = { id: 'a', durationMinutes: 1, type: 'yoga' }
  for (const bad of ['', ' a', 'a\n', 'a\0b', '\ud800']) assert.throws(() => Created(data, { tenantId: bad }), TypeError, JSON.stringify(bad))
  assert.throws(() => Created({ ...data, id: '' }), TypeError)
  assert.equal(Created(data, { tenantId: 'größe 1' }).tenantId, 'größe 1')
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  assert.equal(Created(data, { traceparent }).traceparent, traceparent)
  assert.equal(Created(data, { traceparent: 'nonsense' }).traceparent, undefined)
  assert.equal(Created(data, { tracestate: 'a=1\r\nb: 2' }).tracestate, undefined)
})

test('older versions climb to the latest step by step, each validated', () => {
  const latest = { id: 'a', durationMinutes: 5, type: 'other' }
  assert.deepEqual(toLatest(Created, 1, { id: 'a', minutes: 5 }), latest)
  assert.deepEqual(toLatest(Created, 2, { id: 'a', durationMinutes: 5 }), latest)
  assert.deepEqual(toLatest(Created, 3, latest), latest)
  assert.throws(() => toLatest(Created, 1, { id: 'a', durationMinutes: 5 }), code('ERR_EVENTS_INVALID', /version 1/))
})

test('newer versions, and older ones without an upcaster, are refused', () => {
  assert.throws(() => toLatest(Created, 4, {}), code('ERR_EVENTS_VERSION', /version 4, newer than 3/))
  const From2 = defineEvent('e', { version: 3, schema: V3, topic: 't' }).upcast(2, V2, (old) => ({ ...old, type: 'x' }))
  assert.throws(() => toLatest(From2, 1, {}), code('ERR_EVENTS_VERSION', /version 1, for which no upcaster/))
})

test('an upcaster that throws, or gives what the next schema refuses, is an invalid event', () => {
  const schema = z.object({ n: z.number() })
  const Throws = defineEvent('e', { version: 2, schema, topic: 't' }).upcast(1, z.object({}), () => {
    throw new Error('no such field')
  })
  assert.throws(() => toLatest(Throws, 1, {}), code('ERR_EVENTS_INVALID', /upcaster of e from version 1 failed: no such field/))
  const Wrong = defineEvent('e', { version: 2, schema, topic: 't' }).upcast(1, z.object({}), () => ({ n: 'x' }) as never)
  assert.throws(() => toLatest(Wrong, 1, {}), code('ERR_EVENTS_INVALID', /e version 2 is invalid: n: /))
})

test('upcasters come newest first, without gaps', () => {
  const E = defineEvent('e', { version: 3, schema: V3, topic: 't' })
  assert.throws(
    () => E.upcast(1, V1, () => ({}) as never),
    /RangeError: Upcasters go from the newest version to the oldest: the next one of e is from 2, got 1/,
  )
  assert.throws(
    () => defineEvent('first', { version: 1, schema: V1, topic: 't', aggregateId: () => 'a' }).upcast(1, V1, (data) => data),
    /RangeError: first has no version before 1/,
  )
  assert.throws(() => E.upcast(3, V3, (same) => same), RangeError)
  assert.throws(() => defineEvent('e', { version: 1, schema: V1, topic: 't' }).upcast(0, V1, (same) => same), RangeError)
  assert.deepEqual(E.versions.length, 1, 'a refused upcaster changes nothing')
})

test('misuse is named: version, name, schema', () => {
  assert.throws(() => defineEvent('e', { version: 0, schema: V1, topic: 't' }), RangeError)
  assert.throws(() => defineEvent('', { version: 1, schema: V1, topic: 't' }), RangeError)
  assert.throws(() => defineEvent('e', { version: 1, schema: {} as never, topic: 't' }), /TypeError: e: schema must be a Standard Schema, .* got {}/)
})

test('asynchronous schemas: createAsync validates, the synchronous factory says so', async () => {
  const schema = v.pipeAsync(
    v.objectAsync({ id: v.string() }),
    v.checkAsync(async ({ id }) => id !== 'taken', 'is taken'),
  )
  const Named = defineEvent('user.named', { version: 1, schema, topic: 'users', aggregateId: ({ id }) => id })
  assert.throws(() => Named({ id: 'free' }), /TypeError: The schema of user.named is asynchronous: use createAsync/)
  assert.deepEqual((await Named.createAsync({ id: 'free' })).data, { id: 'free' })
  await assert.rejects(Named.createAsync({ id: 'taken' }), code('ERR_EVENTS_INVALID', /is taken/))
  const Late = defineEvent('user.named', { version: 2, schema, topic: 'users' }).upcast(1, schema, ({ id }) => ({ id: `${id}!` }))
  assert.deepEqual(await toLatest(Late, 1, { id: 'a' }), { id: 'a!' })
  await assert.rejects(toLatest(Late, 1, { id: 'taken' }) as Promise<unknown>, code('ERR_EVENTS_INVALID'))
})

test('valibot: transformations give the output type; a schema that throws is an invalid event', () => {
  const Moved = defineEvent('moved', {
    version: 1,
    topic: 't',
    schema: v.object({ id: v.pipe(v.string(), v.trim()), km: v.optional(v.number(), 0) }),
    aggregateId: ({ id }) => id,
  })
  const event = Moved({ id: ' a ' })
  const km: number = event.data.km
  assert.deepEqual([event.aggregateId, km], ['a', 0])
  const schema = { '~standard': { version: 1, vendor: 'test', validate: () => assert.fail('boom') } } as const
  assert.throws(() => defineEvent('e', { version: 1, schema, topic: 't' })({}), code('ERR_EVENTS_INVALID', /schema of e version 1 failed: boom/))
})
