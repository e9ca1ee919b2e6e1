import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryHarness, message, virtualClock } from './harness.test.ts'
import { relay, type RelayOptions } from './index.ts'

const mute = Object.assign(new Error('mute'), {
  toString: () => {
    throw new Error('no')
  },
})
const thrown: readonly unknown[] = [Object.create(null), mute, Symbol('s'), Object.assign(new Error('x'), { message: Symbol('m') })]

/** Ways in which a publisher may refuse a message. */
const refusals: Record<string, (what: unknown) => RelayOptions['publisher']> = {
  'rejects for a message': (what) => ({ publish: () => Promise.reject(what) }),
  'rejects for a batch': (what) => ({ publishBatch: () => Promise.reject(what) }),
  'says so in its results': (what) => ({ publishBatch: async (messages) => messages.map(() => ({ status: 'rejected', error: what as Error })) }),
}

for (const [how, publisher] of Object.entries(refusals))
  test(`a publisher that ${how}, for what has no text of its own, has refused, and hooks that throw the same end nothing`, async () => {
    for (const what of thrown) {
      const harness = memoryHarness()
      const clock = virtualClock()
      const told: string[] = []
      const onError = (_error: unknown, during: string): never => {
        told.push(during)
        throw what
      }
      const moving = relay({ db: harness.db, outbox: harness.outbox, publisher: publisher(what), clock, maxAttempts: 2, hooks: { onError } })
      await harness.transaction((tx) => harness.outbox.add(tx, [message('k', '1'), message('l', '2')]))
      await moving.start()
      await clock.advance(2_000)
      const { state } = moving.stats()
      assert.deepEqual([new Set(told), state === 'database-down'], [new Set(['publish']), false], String(what === mute))
      const closing = moving.close()
      await clock.advance(60_000)
      await closing
    }
  })
