import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Broker, createBroker } from './broker.ts'
import type { BrokerDriver } from './driver.ts'
import { memoryDriver } from './memory.ts'
import { type VirtualClock, virtualClock } from './virtual-clock.ts'

interface Read {
  readonly limit: number
  readonly got: number
  readonly bytes: number
}

/** A group with `n` dead letters of `size` bytes each, and what was read of any log since. `atEnd` runs when a log has been read to its end. The clock stands still. */
async function graveyard(
  n: number,
  size = 1,
  atEnd: () => Promise<unknown> = async () => undefined,
): Promise<{ broker: Broker; reads: Read[]; clock: VirtualClock; marks: () => number }> {
  const clock = virtualClock()
  const inner = memoryDriver({ clock })
  const reads: Read[] = []
  let marks = 0
  const driver: BrokerDriver = {
    ...inner,
    log: {
      ...inner.log,
      marks: (topic) => {
        marks++
        return inner.log.marks(topic)
      },
      read: async (topic, partition, after, limit, limitBytes) => {
        const page = await inner.log.read(topic, partition, after, limit, limitBytes)
        if (page.length === 0) await atEnd()
        reads.push({ limit, got: page.length, bytes: page.reduce((sum, { message }) => sum + message.value.length, 0) })
        return page
      },
    },
  }
  const broker = createBroker(driver, { clock })
  await clock.run(async () => {
    await broker.createTopic('t', { partitions: 1, groups: ['g'] })
    for (let i = 0; i < n; i++) await broker.publish({ topic: 't', id: String(i), value: new Uint8Array(size) })
    const subscription = await broker.subscribe('t', { group: 'g', retry: { maxAttempts: 1 } }, () => {
      throw new Error('buried')
    })
    while ((await broker.lag('t', 'g')).messages > 0) await clock.sleep(10)
    await subscription.close()
  })
  return { broker, reads, clock, marks: () => marks }
}

test('a list reads no more letters than it needs, and few pages where most were replayed', async () => {
  const { broker, reads } = await graveyard(100)
  const dead = broker.deadLetters('t', 'g')
  assert.deepEqual(
    (await dead.list({ limit: 2 })).letters.map(({ id }) => id),
    ['0', '1'],
  )
  assert.deepEqual(reads.splice(0), [{ limit: 2, got: 2, bytes: 2 }])
  await dead.list({ filter: () => false, scan: 7 })
  assert.deepEqual(reads.splice(0), [{ limit: 7, got: 7, bytes: 7 }])
  await dead.replay({ filter: ({ id }) => Number(id) < 90 })
  reads.length = 0
  assert.deepEqual(
    (await dead.list({ limit: 1 })).letters.map(({ id }) => id),
    ['90'],
  )
  assert.deepEqual(
    reads.map(({ limit }) => limit),
    [1, 2, 4, 8, 16, 32, 64],
  )
  await broker.close()
})

test('large letters are listed, replayed and discarded a few megabytes at a time, and peeked at no otherwise', async () => {
  const { broker, reads } = await graveyard(12, 990_000)
  const dead = broker.deadLetters('t', 'g')
  const most = (): number => Math.max(...reads.splice(0).map(({ bytes }) => bytes))
  assert.equal(await dead.count(), 12)
  assert.ok(most() <= 4_194_304)
  assert.equal((await dead.list()).letters.length, 12)
  assert.ok(most() <= 4_194_304)
  assert.equal((await broker.peek('t', { limit: 11 })).length, 11)
  assert.ok(most() <= 4_194_304)
  assert.equal((await dead.replay({ filter: () => true, limit: 2 })).length, 2)
  assert.ok(most() <= 4_194_304)
  assert.equal((await dead.discard({ filter: () => true })).length, 12)
  assert.ok(most() <= 4_194_304)
  await broker.close()
})

test('a replay holds where letters stand, and reads again what it sends', async () => {
  const { broker, reads } = await graveyard(12, 990_000)
  const dead = broker.deadLetters('t', 'g')
  const readToSend = async (order: 'oldest' | 'newest'): Promise<number[]> => {
    const outcomes = await dead.replay({ filter: () => true, limit: 2, order })
    assert.deepEqual(
      outcomes.map(({ outcome }) => outcome),
      ['replayed', 'replayed'],
    )
    const got = reads.splice(0).map((read) => read.got)
    return got.slice(got.lastIndexOf(0) + 1)
  }
  assert.deepEqual(await readToSend('oldest'), [4])
  assert.deepEqual(await readToSend('newest'), [1, 1])
  await broker.close()
})

test('a letter that somebody discards between being chosen and being sent is not found, and the others are sent', async () => {
  let discarding: (() => Promise<unknown>) | undefined
  const { broker } = await graveyard(3, 1, async () => {
    const discard = discarding
    discarding = undefined
    await discard?.()
  })
  const dead = broker.deadLetters('t', 'g')
  const { letters } = await dead.list()
  discarding = () => dead.discard({ ids: [letters[1]!.letterId] })
  const outcomes = await dead.replay({ filter: () => true })
  assert.deepEqual(
    outcomes.map(({ outcome }) => outcome),
    ['replayed', 'not-found', 'replayed'],
  )
  await broker.close()
})

test('a replay looks at letters and marks again when it did so a second ago, also while one is edited, and no more often', async () => {
  const { broker, clock, marks } = await graveyard(6)
  const dead = broker.deadLetters('t', 'g')
  const { letters } = await dead.list()
  const [, , third, fourth] = letters.map(({ letterId }) => letterId)
  const before = marks()
  const edited: string[] = []
  const outcomes = await dead.replay({
    filter: () => true,
    edit: async ({ id }) => {
      edited.push(id)
      if (id === '1') await clock.advance(999)
      if (id !== '2') return {}
      await dead.discard({ ids: [third!, fourth!] })
      await clock.advance(1)
      return {}
    },
  })
  assert.deepEqual(
    outcomes.map(({ outcome }) => outcome),
    ['replayed', 'replayed', 'not-found', 'not-found', 'replayed', 'replayed'],
  )
  assert.deepEqual(edited, ['0', '1', '2', '4', '5'])
  // To choose, before the first, for the discard, and a second after the first.
  assert.equal(marks() - before, 4)
  await broker.close()
})
