import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deferred } from '#internal/abort'
import { type Broker, createBroker } from './broker.ts'
import type { PublishResult } from './driver.ts'
import { memoryDriver } from './memory.ts'
import { memoryStore, type MemoryStoreOptions } from './memory-store.ts'
import { outgoing } from './postgres.fixture.ts'
import { partitionOf } from './partition.ts'
import { virtualClock, type VirtualClock } from './virtual-clock.ts'

const value = new TextEncoder().encode('x')

function open(options: MemoryStoreOptions = {}): { broker: Broker; clock: VirtualClock; store: ReturnType<typeof memoryStore> } {
  const clock = virtualClock()
  const store = memoryStore({ clock, ...options })
  return { clock, store, broker: createBroker(memoryDriver({ store }), { clock, partitions: 1 }) }
}

const backpressure = { code: 'ERR_MESSAGING_BACKPRESSURE', retryable: true }

test('a full topic refuses with a retryable error, until its group has read', async () => {
  const { broker, clock, store } = open({ maxMessages: 3 })
  await broker.createTopic('t', { groups: ['g'] })
  for (let i = 0; i < 3; i++) await broker.publish({ topic: 't', value })
  await assert.rejects(broker.publish({ topic: 't', value }), backpressure)
  await broker.publish({ topic: 'other', value })
  const subscription = await broker.subscribe('t', { group: 'g', flushMs: 10 }, () => undefined)
  await clock.advance(100)
  await broker.publish({ topic: 't', value })
  assert.ok(store.messageCount('t') <= 3)
  await clock.run(() => subscription.close())
})

test('a listener without a group that reads too slowly is told what it missed, and goes on', async () => {
  const { store, clock } = open({ maxMessages: 3 })
  const errors: unknown[] = []
  const broker = createBroker(memoryDriver({ store }), {
    clock,
    partitions: 1,
    hooks: { onError: ({ error }) => errors.push((error as { code: string }).code) },
  })
  await broker.createTopic('t')
  const seen: string[] = []
  const gate = deferred()
  await broker.subscribe('t', { prefetch: 1 }, async ({ id }) => {
    seen.push(id)
    await gate.promise
  })
  for (const id of 'abcdefgh') {
    await broker.publish({ topic: 't', id, value })
    await clock.advance(1)
  }
  gate.resolve()
  await clock.advance(1_000)
  assert.equal(seen[0], 'a')
  assert.equal(seen.at(-1), 'h')
  assert.ok(seen.length < 8)
  assert.deepEqual([...new Set(errors)], ['ERR_MESSAGING_MISSED'])
  await clock.run(() => broker.close())
})

test('what a slow listener missed in one partition is told, also when another has something for it', async () => {
  const { store, clock } = open({ maxMessages: 8 })
  const broker = createBroker(memoryDriver({ store }), { clock, partitions: 2 })
  await broker.createTopic('t')
  const reader = memoryDriver({ store })
  const consumption = await reader.consume('t', undefined, {
    assigned: () => undefined,
    revoking: () => undefined,
    lost: () => undefined,
    renewed: () => undefined,
  })
  const [one, other] = [0, 1].map((partition) => Array.from({ length: 100 }, (_, i) => `key-${i}`).find((key) => partitionOf(key, 2) === partition)!)
  await broker.publish({ topic: 't', key: one!, value, id: 'first' })
  for (let i = 0; i < 12; i++) await broker.publish({ topic: 't', key: other!, value, id: `other ${i}` })
  await broker.publish({ topic: 't', key: one!, value, id: 'last' })
  const wants = new Map([
    [0, 20],
    [1, 20],
  ])
  const seen: string[] = []
  let missed = 0
  for (let i = 0; i < 4 && !(seen.includes('last') && seen.includes('other 11')); i++) {
    const got = await consumption.fetch(wants, { signal: new AbortController().signal }).catch((error: Error) => {
      missed += Number.parseInt(error.message)
      return []
    })
    seen.push(...got.map(({ message }) => message.id))
  }
  assert.equal(seen.length + missed, 14, `${seen.join(', ')} and ${missed} told`)
  assert.ok(missed > 0)
  await broker.close()
})

test("overflow: 'wait' lets the publisher wait for room", async () => {
  const { broker, clock } = open({ maxMessages: 1, overflow: 'wait' })
  await broker.createTopic('t', { groups: ['g'] })
  await broker.publish({ topic: 't', value })
  let stored = false
  const waiting = broker.publish({ topic: 't', value }).then(() => (stored = true))
  await clock.advance(1_000)
  assert.equal(stored, false)
  await broker.subscribe('t', { group: 'g', flushMs: 10 }, () => undefined)
  await clock.run(() => waiting)
  await clock.run(() => broker.close())
})

test("overflow: 'wait' keeps the order of what waits, batches and single messages, whatever frees the room", async () => {
  const frees: Record<string, (broker: Broker, clock: VirtualClock) => Promise<unknown>> = {
    'a group that reads': (broker) => broker.subscribe('t', { group: 'g', flushMs: 1 }, () => undefined),
    'a group that is deleted': (broker) => broker.deleteGroup('t', 'g'),
    'a group that is moved': (broker) => broker.resetGroup('t', 'g', { to: 'latest' }),
    'messages that get too old': (_, clock) => clock.advance(1_000),
  }
  for (const [what, free] of Object.entries(frees)) {
    const { broker, clock } = open({ maxMessages: 2, overflow: 'wait' })
    await broker.createTopic('t', { groups: ['g'], retention: { maxAgeMs: 1_000 } })
    const stored: string[] = []
    const put = (...ids: string[]): Promise<unknown> => {
      const batch = broker.publishBatch(ids.map((id) => ({ topic: 't', key: 'k', id, value })))
      return batch.then((results) => stored.push(...results.map((result) => `${result.id} ${result.status === 'stored' ? result.position : result.status}`)))
    }
    await put('1', '2')
    const waiting: Promise<unknown>[] = []
    for (const ids of [['3'], ['4', '5'], ['6']]) {
      waiting.push(put(...ids))
      await clock.advance(1)
    }
    assert.deepEqual(stored, ['1 0', '2 1'], what)
    // Room for two at a time: what is stored first must go too.
    for (let i = 0; i < 5 && stored.length < 6; i++) {
      if (i === 0 || !what.includes('reads')) await free(broker, clock).catch(() => undefined)
      if (i === 0) waiting.push(put('7'))
      await clock.advance(10)
    }
    await clock.run(() => Promise.all(waiting))
    assert.deepEqual(stored, ['1 0', '2 1', '3 2', '4 3', '5 4', '6 5', '7 6'], what)
    await clock.run(() => broker.close())
  }
})

test("overflow: 'wait' ends when the topic is deleted, and says so", async () => {
  const store = memoryStore({ maxMessages: 1, overflow: 'wait' })
  const driver = memoryDriver({ store })
  await driver.admin.createTopic('t', { partitions: 1, keep: false, maxAgeMs: undefined })
  await driver.admin.createGroup('t', 'g', 'earliest')
  const { signal } = new AbortController()
  const put = async (id: string): Promise<PublishResult> => (await driver.publish([outgoing('t', id)], { signal }))[0]!
  assert.equal((await put('a')).status, 'stored')
  const waiting = put('b')
  await driver.admin.deleteTopic('t')
  const result = await waiting
  assert.equal(result.status === 'rejected' && (result.error as { code: string }).code, 'ERR_MESSAGING_TOPIC_NOT_FOUND')
})

test("overflow: 'wait' ends with the publisher's timeout, and the message is certainly not stored", async () => {
  const { broker, clock, store } = open({ maxMessages: 1, overflow: 'wait' })
  await broker.createTopic('t', { groups: ['g'] })
  await broker.publish({ topic: 't', value })
  let code: string | undefined
  broker.publish({ topic: 't', value }, { timeoutMs: 500 }).catch((error: { code: string }) => ({ code } = error))
  await clock.advance(60_000)
  assert.match(code!, /^ERR_MESSAGING_PUBLISH/)
  assert.equal(store.messageCount('t'), 1)
})

test("overflow: 'drop-oldest' drops what nobody read and says how many", async () => {
  const removed: [string, number][] = []
  const { broker, clock } = open({ maxMessages: 3, overflow: 'drop-oldest', onRemovedUnread: (topic, count) => removed.push([topic, count]) })
  await broker.createTopic('t', { groups: ['g'] })
  for (const id of ['a', 'b', 'c', 'd', 'e']) await broker.publish({ topic: 't', id, value })
  assert.deepEqual(removed, [
    ['t', 1],
    ['t', 1],
  ])
  const seen: string[] = []
  await broker.subscribe('t', { group: 'g' }, ({ id }) => void seen.push(id))
  await clock.advance(1_000)
  assert.deepEqual(seen, ['c', 'd', 'e'])
})

test('what a topic without groups has no room for goes, the oldest first, and how many is told: the first group gets the rest', async () => {
  let removed = 0
  const { broker, clock } = open({ maxMessages: 100, onRemovedUnread: (_, count) => (removed += count) })
  await broker.createTopic('t')
  await broker.publishBatch(Array.from({ length: 500 }, (_, i) => ({ topic: 't', key: 'k', id: String(i), value })))
  const seen: string[] = []
  await broker.subscribe('t', { group: 'g', start: 'earliest' }, ({ id }) => void seen.push(id))
  await clock.advance(1_000)
  assert.deepEqual(
    seen,
    Array.from({ length: 500 - removed }, (_, i) => String(i + removed)),
  )
  assert.ok(removed >= 400)
  await clock.run(() => broker.close())
})

test('a retention that was asked for removes what is too old, and counts what was unread', async () => {
  const removed: [string, number][] = []
  const { broker, clock } = open({ onRemovedUnread: (topic, count) => removed.push([topic, count]) })
  await broker.createTopic('t', { groups: ['g'], retention: { maxAgeMs: 1_000 } })
  await broker.publish({ topic: 't', id: 'old', value })
  await clock.advance(999)
  await broker.publish({ topic: 't', id: 'new', value })
  assert.equal((await broker.lag('t', 'g')).messages, 2)
  await clock.advance(1)
  assert.equal((await broker.lag('t', 'g')).messages, 1)
  assert.deepEqual(removed, [['t', 1]])
  const seen: string[] = []
  await broker.subscribe('t', { group: 'g' }, ({ id }) => void seen.push(id))
  await clock.advance(500)
  assert.deepEqual(seen, ['new'])
})

test('a delayed message comes exactly in its millisecond, also after a nearer one was added', async () => {
  const { broker, clock } = open()
  const start = clock.now()
  const seen: [string, number][] = []
  await broker.subscribe('t', { group: 'g' }, ({ id }) => void seen.push([id, clock.now() - start]))
  for (const delayMs of [500, 20, 3_600_000, 20, 499]) await broker.publish({ topic: 't', id: `${delayMs}`, value, delayMs })
  await clock.advance(3_600_000)
  assert.deepEqual(seen, [
    ['20', 20],
    ['20', 20],
    ['499', 499],
    ['500', 500],
    ['3600000', 3_600_000],
  ])
})

test('what waits is as old as its place in the log, not as its timestamp', async () => {
  const { store, clock } = open({})
  const broker = createBroker(memoryDriver({ store }), { clock })
  await broker.createTopic('t', { groups: ['g'] })
  const oldest = async (): Promise<number | undefined> => (await broker.lag('t', 'g')).oldestAt
  const due = clock.now() + 60_000
  await broker.publish({ topic: 't', value, timestamp: 1, deliverAt: due })
  assert.equal(await oldest(), undefined)
  await clock.advance(90_000)
  assert.equal(await oldest(), due)
  await clock.run(() => broker.close())
})

test('a dedupeId is forgotten after its window', async () => {
  const { broker, clock } = open({ dedupeWindowMs: 1_000 })
  const send = async (): Promise<boolean> => (await broker.publish({ topic: 't', value, dedupeId: 'd' })).duplicate
  assert.deepEqual([await send(), await send()], [false, true])
  await clock.advance(999)
  assert.equal(await send(), true)
  await clock.advance(1)
  assert.equal(await send(), false)
})

test('a store lives as long as somebody holds it, and forgets everything when told', async () => {
  const { broker, clock, store } = open()
  await broker.publish({ topic: 't', value })
  await broker.close()
  const second = createBroker(memoryDriver({ store }), { clock })
  assert.equal(store.messageCount('t'), 1)
  store.reset()
  assert.deepEqual(await second.listTopics(), [])
  await second.close()
})

test('a member of the same name takes its partitions back at once', async () => {
  const { clock, store } = open()
  const life = async (): Promise<{ driver: ReturnType<typeof memoryDriver>; seen: string[] }> => {
    const driver = memoryDriver({ store, member: 'worker', leaseMs: 3_600_000 })
    const seen: string[] = []
    await createBroker(driver, { clock }).subscribe('t', { group: 'g' }, ({ id }) => void seen.push(id))
    return { driver, seen }
  }
  const first = await life()
  first.driver.sever()
  const second = await life()
  await createBroker(memoryDriver({ store }), { clock }).publish({ topic: 't', id: 'after', value })
  await clock.advance(10)
  assert.deepEqual([first.seen, second.seen], [[], ['after']])
})
