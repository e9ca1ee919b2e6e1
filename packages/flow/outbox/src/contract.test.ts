// The contract must catch what it is there for: each store below is broken in one way, and the case named beside it has to fail.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { outboxContract } from './contract.ts'
import { memoryHarness } from './harness.test.ts'
import type { InboxStore, MemoryStore, OutboxStore, QueueStore, RowStore } from './index.ts'

const rows = (change: (sound: RowStore, memory: MemoryStore) => Partial<RowStore>) => (memory: MemoryStore) => ({
  outbox: { ...memory.outbox, rows: { ...memory.outbox.rows, ...change(memory.outbox.rows, memory) } },
})
const queue = (change: (sound: QueueStore) => Partial<QueueStore>) => (memory: MemoryStore) => ({
  outbox: { ...memory.outbox, queue: { ...memory.outbox.queue, ...change(memory.outbox.queue) } },
})
const leases = (change: (sound: OutboxStore['leases']) => Partial<OutboxStore['leases']>) => (memory: MemoryStore) => ({
  outbox: { ...memory.outbox, leases: { ...memory.outbox.leases, ...change(memory.outbox.leases) } },
})
const inbox = (change: (sound: InboxStore) => Partial<InboxStore>) => (memory: MemoryStore) => ({ inbox: { ...memory.inbox, ...change(memory.inbox) } })

const broken: Record<string, [caught: RegExp, store: Parameters<typeof memoryHarness>[0]]> = {
  'drops every second row of a transaction': [
    /^what is committed/,
    rows((sound) => ({
      add: (tx, added) =>
        sound.add(
          tx,
          added.filter((_, i) => i % 2 === 0),
        ),
    })),
  ],
  'forgets headers': [
    /^what is committed/,
    rows((sound) => ({
      add: (tx, added) =>
        sound.add(
          tx,
          added.map((row) => ({ ...row, headers: undefined })),
        ),
    })),
  ],
  'never deletes': [/^what is committed/, queue((sound) => ({ next: (db, options) => sound.next(db, { ...options, done: [] }) }))],
  'writes outside of the transaction': [
    /^what is rolled back/,
    rows((sound, memory) => ({ add: (_, added) => memory.transaction((own) => sound.add(own, added)) })),
  ],
  'shows what is not committed': [
    /^rows of an open transaction/,
    rows((sound, memory) => ({ add: (_, added) => memory.transaction((own) => sound.add(own, added)) })),
  ],
  'reads on from the highest id it has seen': [
    /^a smaller id/,
    queue((sound) => {
      let highest = 0
      return {
        next: async (db, options) => {
          const found = await sound.next(db, { ...options, from: options.from.map(({ partition }) => ({ partition, low: highest })) })
          highest = Math.max(highest, ...found.map((row) => row.id))
          return found
        },
      }
    }),
  ],
  'reorders within a key': [/^a key keeps its order/, queue((sound) => ({ next: async (db, options) => (await sound.next(db, options)).toReversed() }))],
  'deletes what it hands out': [
    /^nothing is deleted before/,
    queue((sound) => ({
      next: async (db, options) => {
        const found = await sound.next(db, options)
        await sound.next(db, { done: found, from: [], except: { lanes: [], topics: [] }, limit: 0, limitBytes: 1e9 })
        return found
      },
    })),
  ],
  "keeps a dead relay's rows to itself": [
    /^a relay that dies/,
    leases((sound) => ({ claim: (db, relay, leaseMs, wanted) => sound.claim(db, relay, relay === 'dead' ? 1e9 : leaseMs, wanted) })),
  ],
  'leases to two at once': [
    /^a lease is exclusive/,
    leases(() => ({ claim: async (db, relay, leaseMs, wanted) => wanted.map((partition) => ({ partition, epoch: 1 + Math.random() })) })),
  ],
  'moves rows under a stale epoch': [
    /^a lease is exclusive/,
    queue((sound) => {
      let known: Parameters<QueueStore['hold']>[1] = []
      return {
        hold: (db, given, held) => sound.hold(db, (known = [...known, ...given.map((lease) => ({ ...lease, epoch: lease.epoch + 1 })), ...given]), held),
      }
    }),
  ],
  'forgets what waited behind a parked row': [
    /^a poison row/,
    queue((sound) => ({
      hold: (db, given, held) =>
        sound
          .hold(
            db,
            given,
            held.filter((row) => row.state === 'parked'),
          )
          .then(async (moved) => {
            await sound.next(db, {
              done: held.filter((row) => row.state === 'blocked'),
              from: [],
              except: { lanes: [], topics: [] },
              limit: 0,
              limitBytes: 1e9,
            })
            return moved
          }),
    })),
  ],
  'does not block the key': [/^a poison row/, queue((sound) => ({ restore: (db, given, options) => sound.restore(db, given, { ...options, skip: true }) }))],
  'does not free the key after a discard': [
    /^a parked row that is discarded/,
    queue(() => ({ restore: async () => ({ restored: [], moved: 0, blocked: new Map([['contract/bad', 1]]) }) })),
  ],
  'frees the key before all of it is back': [
    /^many rows/,
    queue((sound) => ({
      restore: async (db, given, options) => {
        const found = await sound.restore(db, given, options)
        return found.moved > 0 ? { ...found, blocked: new Map() } : found
      },
    })),
  ],
  'blocks the key whatever it is told': [
    /^with onPark 'skip-key'/,
    queue((sound) => ({ restore: (db, given, options) => sound.restore(db, given, { ...options, skip: false }) })),
  ],
  'delivers early': [
    /^a due row/,
    rows((sound) => ({
      add: (tx, added) =>
        sound.add(
          tx,
          added.map((row) => ({ ...row, deliverAt: undefined })),
        ),
    })),
  ],
  'lets due rows keep their old timestamp': [
    /^a due row/,
    rows((sound) => ({
      add: (tx, added) =>
        sound.add(
          tx,
          added.map((row) => ({ ...row, ...(row.deliverAt !== undefined && { deliverAt: row.deliverAt - 1 }) })),
        ),
    })),
  ],
  'reads more than it is asked for': [
    /^a look ends with the row/,
    queue((sound) => ({ next: (db, options) => sound.next(db, { ...options, limitBytes: Infinity }) })),
  ],
  'looks at all partitions': [
    /^a look returns the rows/,
    queue((sound) => ({ next: (db, options) => sound.next(db, { ...options, from: Array.from({ length: 16 }, (_, partition) => ({ partition, low: 0 })) }) })),
  ],
  'forgets that a message was handled': [
    /^the inbox runs a handler once/,
    inbox(() => ({ record: async (_, __, handlers) => ({ recorded: handlers, old: false }) })),
  ],
  'confuses handlers': [
    /^the inbox runs a handler once/,
    inbox((sound) => ({ record: (tx, id, _, at, retentionMs) => sound.record(tx, id, ['one'], at, retentionMs) })),
  ],
  'keeps the effects of a handler that threw': [/^a handler that throws/, inbox(() => ({ nested: (_, fn) => fn() }))],
  'keeps the effects of one of several handlers that threw': [/^calls of one transaction/, inbox(() => ({ nested: (_, fn) => fn() }))],
  'takes a concurrent duplicate for handled': [
    /^of concurrent duplicates/,
    inbox((sound) => {
      const begun = new Set<string>()
      return {
        record: async (tx, id, handlers, at, retentionMs) => {
          if (begun.has(id)) return { recorded: [], old: false }
          begun.add(id)
          return sound.record(tx, id, handlers, at, retentionMs)
        },
      }
    }),
  ],
  'does not tell an old message': [
    /^a message that is older/,
    inbox((sound) => ({
      record: async (...given) => ({ ...(await sound.record(...given)), old: false }),
    })),
  ],
  'takes a message that one handler has handled for handled by all': [
    /^of several handlers/,
    inbox((sound) => ({
      record: async (tx, id, handlers, at, retentionMs) => {
        const found = await sound.record(tx, id, handlers, at, retentionMs)
        return found.recorded.length < handlers.length ? { recorded: [], old: false } : found
      },
    })),
  ],
  'cleans up everything': [/^cleanup/, inbox((sound) => ({ sweep: (db, _, limit) => sound.sweep(db, -1, limit) }))],
}

describe('the contract catches a store that', { concurrency: true }, () => {
  for (const [fault, [caught, store]] of Object.entries(broken)) {
    const [found, ...others] = outboxContract.filter(({ name }) => caught.test(name))
    test(`${fault}: "${found?.name}"`, async () => {
      assert.ok(found && others.length === 0, `one case must match ${caught}`)
      await assert.rejects(found.run({ open: async () => memoryHarness(store), guardMs: 500 }))
    })
  }
})
