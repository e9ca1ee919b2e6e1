import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as v from 'valibot'
import { z } from 'zod'
import { json, message, raw } from './message.ts'

const text = (value: Uint8Array): string => new TextDecoder().decode(value)

test('the builder writes a message step by step', () => {
  const built = message()
    .topic('user-events')
    .key('user-123')
    .id('id')
    .json({ name: 'Ada' })
    .header('event_type', 'user.created')
    .dedupeId('d')
    .delay(5)
    .build()
  assert.equal(text(built.value), '{"name":"Ada"}')
  const { value: _, ...rest } = built
  assert.deepEqual(rest, {
    topic: 'user-events',
    key: 'user-123',
    id: 'id',
    dedupeId: 'd',
    delayMs: 5,
    headers: {
      'content-type': 'application/json',
      event_type: 'user.created',
    },
  })
})

test('a half-built message can be kept and used again', () => {
  const half = message().topic('t').header('a', '1')
  const one = half.value('one').header('b', '2').build()
  const two = half.value(Uint8Array.of(255)).headers({ a: '3' }).deliverAt(new Date(99)).build()
  assert.deepEqual([one.headers, two.headers, text(one.value), [...two.value], two.deliverAt], [{ a: '1', b: '2' }, { a: '3' }, 'one', [255], 99])
})

test('without a topic or a body there is no message, and a value that JSON cannot write is a TypeError', () => {
  assert.throws(() => message().value('x').build(), TypeError)
  assert.throws(() => message().topic('t').build(), /needs a body/)
  for (const body of [undefined, () => undefined, Symbol('s')]) assert.throws(() => message().json(body), TypeError)
})

test('a content type that was given stays', () => {
  assert.equal(
    message({ headers: { 'content-type': 'application/vnd.x+json' } })
      .json(1)
      .topic('t')
      .build().headers!['content-type'],
    'application/vnd.x+json',
  )
  assert.equal(message().topic('t').body(raw, Uint8Array.of(1)).build().headers, undefined)
})

test('json reads what it wrote, and refuses what is no UTF-8 or no JSON', () => {
  const codec = json()
  assert.deepEqual(codec.decode(codec.encode({ a: ['ü😀', null] }), {}), { a: ['ü😀', null] })
  for (const bytes of [Uint8Array.of(0xff), Uint8Array.of(), new TextEncoder().encode('{')]) assert.throws(() => codec.decode(bytes, {}))
})

test('schemas of zod and valibot check, and say what does not fit and where', async () => {
  const good = new TextEncoder().encode('{"user":{"age":"7"}}')
  const bad = new TextEncoder().encode('{"user":{"age":{}}}')
  const zod = json(z.object({ user: z.object({ age: z.coerce.number() }) }))
  const valibot = json(v.object({ user: v.object({ age: v.pipe(v.string(), v.transform(Number)) }) }))
  for (const codec of [zod, valibot]) {
    assert.deepEqual(await codec.decode(good, {}), { user: { age: 7 } })
    await assert.rejects(async () => codec.decode(bad, {}), /^TypeError: Body does not match its schema: user\.age: /)
  }
})

test('an asynchronous schema is waited for', async () => {
  const codec = json(z.object({ n: z.number().refine(async (n) => n > 1, 'too small') }))
  assert.deepEqual(await codec.decode(new TextEncoder().encode('{"n":2}'), {}), { n: 2 })
  await assert.rejects(async () => codec.decode(new TextEncoder().encode('{"n":1}'), {}), /n: too small/)
})
