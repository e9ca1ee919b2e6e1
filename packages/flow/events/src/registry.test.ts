import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { defineEvent } from './event.ts'
import { createEventRegistry } from './registry.ts'
import { receivedMessage } from './testing.ts'

const A = defineEvent('a', { version: 1, schema: z.object({ n: z.number() }), topic: 'one', description: 'The first', key: String })
const B = defineEvent('b', { version: 2, schema: z.object({ s: z.string() }), topic: 'one', key: String }).upcast(1, z.object({}), () => ({ s: '' }))
const C = defineEvent('c', { version: 1, schema: z.object({}), topic: 'two', key: String })

test('knows its events: names, topics, versions, schemas', () => {
  const registry = createEventRegistry([A, B, C])
  assert.deepEqual(
    [registry.names, registry.topics],
    [
      ['a', 'b', 'c'],
      ['one', 'two'],
    ],
  )
  assert.equal(registry.get('b'), B)
  assert.equal(registry.get('d'), undefined)
  assert.deepEqual([...registry], [A, B, C])
  assert.deepEqual(
    B.versions.map(({ version }) => version),
    [2, 1],
  )
  assert.equal(A.description, 'The first')
})

test('two definitions of one name are refused', () => {
  assert.throws(() => createEventRegistry([A, defineEvent('a', { version: 1, schema: z.object({}), topic: 't' })]), /TypeError: a is defined twice/)
})

test('decoded events narrow by name', async () => {
  const event = await createEventRegistry([A, B]).decode(receivedMessage(A({ n: 1 })))
  if (event.name === 'a') assert.equal(event.data.n.toFixed(1), '1.0')
  else assert.fail(event.data.s)
})
