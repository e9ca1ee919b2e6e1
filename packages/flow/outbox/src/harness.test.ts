// What the tests of this folder share; has no tests of its own.
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Clock } from '#internal/clock'
import { openDatabase, type Flavour, type TestDatabase } from '../../../../tests/kit/postgres.ts'
import type { OutboxHarness } from './contract.ts'
import { createInbox, createOutbox, memoryStore, type MemoryStore, type OutboxStore, type PublishedMessage, type PublishResult } from './index.ts'

/** One database a suite, a schema a case: making a database costs more than most cases. */
export function schemas(flavour: Flavour): { open(): Promise<OutboxHarness & { schema: string; database: TestDatabase }>; close(): Promise<void> } {
  let opened: Promise<TestDatabase> | undefined
  let n = 0
  return {
    async open() {
      const database = await (opened ??= openDatabase(flavour, { max: 20 }))
      const schema = `s${++n}`
      const outbox = createOutbox({ schema })
      const inbox = createInbox({ schema, retentionMs: 60_000, clockSkewMs: 0 })
      await database.client.query(outbox.schema())
      await database.client.query(inbox.schema())
      return { schema, database, outbox, inbox, db: database.client, transaction: database.transaction, close: async () => {} }
    },
    close: async () => (await opened)?.close(),
  }
}

/** `broken` is put between the relay and a sound store. */
export function memoryHarness(
  broken: (memory: MemoryStore) => { outbox?: OutboxStore; inbox?: MemoryStore['inbox'] } = () => ({}),
): OutboxHarness & { memory: MemoryStore } {
  const memory = memoryStore()
  const { outbox = memory.outbox, inbox = memory.inbox } = broken(memory)
  return {
    memory,
    outbox: createOutbox({ store: outbox }),
    inbox: createInbox({ store: inbox, retentionMs: 60_000, clockSkewMs: 0 }),
    db: memory,
    transaction: memory.transaction,
    close: async () => {},
  }
}

export const message = (key: string | undefined, text: string): { topic: string; key?: string; value: Uint8Array } => ({
  topic: 'test',
  ...(key !== undefined && { key }),
  value: Buffer.from(text),
})

export const textOf = ({ value }: { value: Uint8Array }): string => Buffer.from(value).toString()

export interface TestBroker {
  readonly sent: PublishedMessage[]
  /** How many messages each call had. */
  readonly calls: number[]
  texts(key?: string): string[]
  publishBatch(messages: readonly PublishedMessage[]): Promise<PublishResult[]>
}

/** A broker in memory. What `verdict` gives for a message is its result; what it throws fails the whole batch. */
export function testBroker(verdict: (message: PublishedMessage) => PublishResult | undefined = () => undefined): TestBroker {
  const sent: PublishedMessage[] = []
  const calls: number[] = []
  return {
    sent,
    calls,
    texts: (key?: string): string[] => sent.filter((m) => key === undefined || m.key === key).map(textOf),
    async publishBatch(messages: readonly PublishedMessage[]): Promise<PublishResult[]> {
      calls.push(messages.length)
      const failed = new Map<string, PublishResult>()
      const results = messages.map((m): PublishResult => {
        const lane = `${m.topic}/${m.key ?? m.id}`
        const result = failed.get(lane) ?? verdict(m) ?? { status: 'stored' }
        if (result.status !== 'stored') failed.set(lane, result)
        return result
      })
      sent.push(...messages.filter((_, i) => results[i]!.status === 'stored'))
      return results
    },
  }
}

export const failing = (retryable: boolean): Error => Object.assign(new Error('refused'), { code: 'ERR_REFUSED', retryable })

/** Stands still but for `advance`, which wakes sleepers in the order of their times and lets each act before the next. */
export function virtualClock(start = 1_700_000_000_000): Clock & { advance(ms: number): Promise<void> } {
  let now = 0
  const sleepers = new Set<{ at: number; wake: () => void }>()
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 20; i++) await nextTurn()
  }
  return {
    now: () => start + now,
    monotonic: () => now,
    sleep: (ms, { signal } = {}) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason as Error)
        const sleeper = { at: now + ms, wake: resolve }
        sleepers.add(sleeper)
        signal?.addEventListener('abort', () => sleepers.delete(sleeper) && reject(signal.reason as Error), { once: true })
      }),
    async advance(ms) {
      const end = now + ms
      for (;;) {
        await settle()
        const next = [...sleepers].toSorted((a, b) => a.at - b.at)[0]
        if (!next || next.at > end) break
        now = Math.max(now, next.at)
        sleepers.delete(next)
        next.wake()
      }
      now = end
      await settle()
    },
  }
}
