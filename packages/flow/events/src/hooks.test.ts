import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { z } from 'zod'
import { EventHandlingError } from './errors.ts'
import { defineEvent } from './event.ts'
import { createEventProcessor } from './processor.ts'

const Created = defineEvent('created', { version: 1, topic: 'activities', schema: z.object({ id: z.string() }), aggregateId: ({ id }) => id })
const mute = Object.assign(new Error('mute'), {
  toString: () => {
    throw new Error('no')
  },
})
const thrown: readonly unknown[] = [Object.create(null), mute, Symbol('s'), Object.assign(new Error('x'), { message: Symbol('m') })]

/** The warnings that came, once `n` have. */
function warnings(t: TestContext): (n: number) => Promise<string[]> {
  const seen: string[] = []
  const onWarning = ({ name, message }: Error): void => void (name === 'EventsWarning' && seen.push(message))
  process.on('warning', onWarning)
  t.after(() => process.off('warning', onWarning))
  return async (n) => {
    while (seen.length < n) await new Promise((resolve) => setImmediate(resolve))
    return seen
  }
}

test('a hook that throws what has no text of its own is a warning, and nothing more', async (t) => {
  const warned = warnings(t)
  for (const what of thrown) {
    const onProcessed = (): never => {
      throw what
    }
    const processor = createEventProcessor({ hooks: { onProcessed } }).on(Created, () => {}, { name: 'h' })
    await processor.processEvent(Created({ id: 'a' }))
  }
  assert.deepEqual(
    await warned(thrown.length),
    ['{}', 'Error: mute', 'Symbol(s)', '{}'].map((text) => `Hook onProcessed threw: ${text}`),
  )
})

test('a handler or a policy that throws what has no text of its own fails as any other', async () => {
  for (const what of thrown) {
    const retry = { maxAttempts: 1 }
    const processor = createEventProcessor({ retry })
      .on(
        Created,
        () => {
          throw what
        },
        { name: 'handler' },
      )
      .on(Created, () => {}, { name: 'policy', policy: { execute: () => Promise.reject(what) } })
    await assert.rejects(processor.processEvent(Created({ id: 'a' })), EventHandlingError)
  }
})

test('a predicate that gives a promise has said nothing, and is warned of; what it rejects with ends nothing', async (t) => {
  const warned = warnings(t)
  let runs = 0
  const isRetryable = (() => Promise.reject(new Error('no such field'))) as never
  const processor = createEventProcessor({ retry: { maxAttempts: 2, initialDelayMs: 1, isRetryable } }).on(
    Created,
    () => {
      runs++
      throw new RangeError('bad')
    },
    { name: 'h' },
  )
  await assert.rejects(processor.processEvent(Created({ id: 'a' })), EventHandlingError)
  assert.equal(runs, 2)
  assert.deepEqual(await warned(1), ['retry.isRetryable threw: TypeError: retry.isRetryable must give true or false, got a promise'])
})
