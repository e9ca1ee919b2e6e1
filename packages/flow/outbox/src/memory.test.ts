import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { outboxContract } from './contract.ts'
import { memoryHarness } from './harness.test.ts'
import { createOutbox, memoryStore } from './index.ts'

describe('the memory store', { concurrency: true }, () => {
  for (const { name, run } of outboxContract) test(name, () => run({ open: async () => memoryHarness() }))

  test('refuses a transaction that has ended, and one of another store', async () => {
    const memory = memoryStore()
    const outbox = createOutbox({ store: memory.outbox })
    const add = (tx: Parameters<typeof outbox.add>[0]): Promise<unknown> => outbox.add(tx, { topic: 't', value: new Uint8Array() })
    const ended = await memory.transaction(async (tx) => tx)
    await assert.rejects(add(ended), /Not a transaction of this store/)
    await memoryStore().transaction((tx) => assert.rejects(add(tx), /Not a transaction of this store/))
    await memory.transaction((tx) => assert.rejects(tx.query('SELECT 1'), /runs no SQL: SELECT 1/))
  })
})

test('the memory store takes as many rows as there are', async () => {
  const { outbox, transaction, ...memory } = memoryStore()
  const row = {
    messageId: 'm',
    topic: 't',
    key: undefined,
    value: new Uint8Array(),
    headers: undefined,
    timestamp: 0,
    dedupeId: undefined,
    deliverAt: undefined,
  }
  await transaction((tx) =>
    outbox.rows.add(
      tx,
      Array.from({ length: 140_000 }, () => row),
    ),
  )
  assert.equal((await outbox.rows.counts(memory)).pending, 140_000)
})
