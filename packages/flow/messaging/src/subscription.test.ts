import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deferred } from '#internal/abort'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { z } from 'zod'
import { type BrokerOptions, createBroker, type SubscribeOptions } from './broker.ts'
import type { BrokerDriver, Capabilities, Consumption, Delivery, Ownership } from './driver.ts'
import type { HandlerContext } from './job.ts'
import { memoryDriver } from './memory.ts'
import { json, type Message } from './message.ts'
import type { Subscription } from './subscription.ts'
import { virtualClock, type VirtualClock } from './virtual-clock.ts'

/** A driver in the test's hands: it says what is owned and what comes, and sees what is asked for and settled. */
interface Puppet {
  clock: VirtualClock
  subscription: Subscription
  owner: Ownership
  /** Asked for, of the fetch under way. */
  wants(): ReadonlyMap<number, number> | undefined
  /** Answers the fetch under way with these texts, at the next positions of the partition. */
  hand(partition: number, texts: readonly string[], more?: Partial<Delivery>): Promise<void>
  failFetch(error: Error): Promise<void>
  readonly settlements: { partition: number; epoch: number; watermark: string | undefined; above: string[]; settled: string[] }[]
  /** What the next settlements answer; by default settled. */
  readonly answers: ('settled' | 'stale' | Error)[]
  readonly log: string[]
}

type Handler = (message: Message, context: HandlerContext) => unknown

async function puppet(
  handler: Handler,
  options: SubscribeOptions = {},
  brokerOptions: BrokerOptions = {},
  capabilities: Partial<Capabilities> = {},
): Promise<Puppet> {
  const clock = virtualClock()
  const memory = memoryDriver({ clock })
  const log: string[] = []
  const settlements: Puppet['settlements'] = []
  const answers: Puppet['answers'] = []
  let owner: Ownership | undefined
  let asked: { wants: ReadonlyMap<number, number>; answer: ReturnType<typeof deferred<readonly Delivery[]>> } | undefined
  const epochs = new Map<number, number>()
  const next = new Map<number, number>()

  const consumption: Consumption = {
    fetch: (wants, { signal }) => {
      const answer = deferred<readonly Delivery[]>()
      const mine = (asked = { wants, answer })
      signal.addEventListener('abort', () => {
        if (asked === mine) asked = undefined
        answer.resolve([])
      })
      return answer.promise
    },
    begin: async ({ position }) => {
      log.push(`begin ${position}`)
      return 1
    },
    settle: async (progress) => {
      const answer = answers.shift() ?? 'settled'
      if (answer instanceof Error) throw answer
      for (const { partition, epoch, watermark, above, settled } of progress)
        settlements.push({ partition, epoch, watermark: watermark?.position, above: above.map(position), settled: settled.map(position) })
      log.push('settle')
      return progress.map(() => answer)
    },
    extend: async (deliveries) => void log.push(`extend ${deliveries.map(position).join(' ')}`),
    release: async (partition, epoch) => void log.push(`release ${partition}/${epoch}`),
    close: async () => void log.push('close'),
  }
  const driver: BrokerDriver = {
    ...memory,
    capabilities: { ...memory.capabilities, ...capabilities },
    consume: async (topic, group, given) => {
      if (topic !== 't') return { ...consumption, fetch: (_wants, { signal }) => new Promise((resolve) => signal.addEventListener('abort', () => resolve([]))) }
      owner = {
        ...given,
        assigned: (partition, epoch) => {
          epochs.set(partition, epoch)
          given.assigned(partition, epoch)
        },
      }
      if (group === 'g') owner.assigned(0, 1)
      return consumption
    },
  }
  const broker = createBroker(driver, { clock, random: () => 0, ...brokerOptions })
  const subscription = await broker.subscribe('t', { group: 'g', ...options }, handler)
  await clock.advance(0)
  return {
    clock,
    subscription,
    settlements,
    answers,
    log,
    owner: owner!,
    wants: () => asked?.wants,
    hand: async (partition, texts, more = {}) => {
      const { answer } = asked ?? assert.fail('nothing is asked for')
      asked = undefined
      answer.resolve(
        texts.map((text): Delivery => {
          const at = next.get(partition) ?? 0
          next.set(partition, at + 1)
          const value = new TextEncoder().encode(text)
          const message = {
            id: text,
            idStable: true,
            key: text[0],
            value,
            headers: {},
            timestamp: 0,
            tombstone: false,
          }
          return {
            partition,
            epoch: epochs.get(partition)!,
            position: String(at),
            message,
            suspect: false,
            ...more,
          }
        }),
      )
      await clock.advance(0)
    },
    failFetch: async (error) => {
      const { answer } = asked ?? assert.fail('nothing is asked for')
      asked = undefined
      answer.reject(error)
      await clock.advance(0)
    },
  }
}

const position = (delivery: Delivery): string => delivery.position
const nothing = (): void => undefined

test('a new partition is asked for one message, until it is known that nobody had it before', async () => {
  const { wants, hand } = await puppet(nothing, { prefetch: 100 })
  assert.deepEqual([...wants()!], [[0, 1]])
  await hand(0, ['a'])
  assert.deepEqual([...wants()!], [[0, 50]], 'half of prefetch: the other half is worked on meanwhile')
})

test('no more is asked for than prefetch and maxInFlight leave room for, and finishing makes room', async () => {
  const gate = deferred()
  const { wants, hand, subscription, clock } = await puppet(() => gate.promise, { prefetch: 4, maxInFlight: 5, concurrency: 2, order: 'none' })
  await hand(0, ['a'])
  assert.deepEqual([...wants()!], [[0, 2]])
  await hand(0, ['b', 'c'])
  await hand(0, ['d', 'e'])
  assert.equal(wants(), undefined, 'the window is full')
  assert.deepEqual([subscription.stats().full, subscription.stats().running, subscription.stats().buffered], [1, 2, 3])
  gate.resolve()
  await clock.advance(0)
  assert.deepEqual([...wants()!], [[0, 2]])
  assert.equal(subscription.stats().full, 0)
})

test('what waits behind a message that is tried again leaves room for others, and takes it again when that one comes back', async () => {
  const gate = deferred()
  const { hand, wants, clock } = await puppet(
    ({ id }, context) => {
      if (id !== 'a') return undefined
      if (context.attempt === 2) return gate.promise
      return context.retry({ delayMs: 100 })
    },
    { order: 'partition', prefetch: 4 },
  )
  await hand(0, ['a'])
  for (const texts of [
    ['b', 'c'],
    ['d', 'e'],
  ]) {
    assert.deepEqual(wants(), new Map([[0, 2]]), 'they do not count')
    await hand(0, texts)
  }
  await clock.advance(100)
  await hand(0, ['f', 'g'])
  assert.equal(wants(), undefined, 'they count: six wait, and four may')
  gate.resolve()
  await clock.advance(0)
  assert.deepEqual(wants(), new Map([[0, 2]]))
})

test('progress is settled after flushMs, with what is done beyond the first unfinished', async () => {
  const gate = deferred()
  const { hand, settlements, clock } = await puppet(({ id }) => (id === 'b' ? gate.promise : undefined), { concurrency: 5, flushMs: 100 })
  await hand(0, ['a'])
  await hand(0, ['b', 'c', 'd'])
  assert.deepEqual(settlements, [])
  await clock.advance(100)
  assert.deepEqual(settlements, [{ partition: 0, epoch: 1, watermark: '0', above: ['2', '3'], settled: ['0', '2', '3'] }])
  gate.resolve()
  await clock.advance(100)
  assert.deepEqual(settlements[1], { partition: 0, epoch: 1, watermark: '3', above: [], settled: ['1'] })
  await clock.advance(10_000)
  assert.equal(settlements.length, 2, 'and no more when there is nothing new')
})

test('progress is settled earlier after flushEvery messages', async () => {
  const { hand, settlements } = await puppet(nothing, { flushMs: 60_000, flushEvery: 3 })
  await hand(0, ['a'])
  await hand(0, ['b', 'c', 'd'])
  assert.equal(settlements[0]!.settled.length, 3)
})

test('a settlement that fails is tried again with everything in it', async () => {
  const errors: unknown[] = []
  const { hand, settlements, answers, clock, subscription } = await puppet(
    nothing,
    { flushMs: 100 },
    { hooks: { onError: ({ error }) => void errors.push(error) } },
  )
  const failure = new Error('no connection')
  answers.push(failure)
  await hand(0, ['a'])
  await hand(0, ['b'])
  await clock.advance(100)
  assert.deepEqual([errors, settlements, subscription.stats().error], [[failure], [], failure])
  await clock.advance(1_000)
  assert.deepEqual(settlements[0]!.settled, ['0', '1'])
  assert.equal(settlements[0]!.watermark, '1')
})

test('what is finished while a settlement is under way is in the next one', async () => {
  const { hand, settlements, clock } = await puppet(nothing, { flushMs: 10, flushEvery: 1 })
  await hand(0, ['a'])
  await hand(0, ['b', 'c'])
  await clock.advance(1_000)
  assert.deepEqual(settlements.flatMap(({ settled }) => settled).sort(), ['0', '1', '2'])
  assert.equal(settlements.at(-1)!.watermark, '2')
})

test('a settlement that is refused as stale takes the partition away and aborts its handlers', async () => {
  const reasons: unknown[] = []
  const { hand, answers, clock, subscription } = await puppet(
    ({ id }, { signal }) => id === 'b' && new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(void reasons.push(signal.reason)))),
    { concurrency: 2, flushMs: 10 },
  )
  answers.push('stale')
  await hand(0, ['a'])
  await hand(0, ['b'])
  await clock.advance(20)
  assert.deepEqual(
    reasons.map((reason) => (reason as { code: string }).code),
    ['ERR_MESSAGING_OWNERSHIP_LOST'],
  )
  assert.equal(subscription.stats().partitions, 0)
})

test('a partition that is lost ends its waits; what its handlers say later is nothing', async () => {
  const gate = deferred()
  const { hand, owner, settlements, clock, subscription } = await puppet(({ id }) => (id === 'b' ? gate.promise : undefined), { concurrency: 1, flushMs: 10 })
  await hand(0, ['a'])
  await hand(0, ['b', 'c'])
  owner.lost(0, 'taken')
  gate.resolve()
  await clock.advance(1_000)
  assert.deepEqual([subscription.stats().partitions, subscription.stats().buffered, subscription.stats().running], [0, 0, 0])
  assert.ok(!settlements.some(({ settled }) => settled.includes('1')))
})

test('a message whose partition is lost while it is decoded does not reach the handler, and its slot is free', async () => {
  const gate = deferred<Uint8Array>()
  const codec = { contentType: 'text/plain', encode: () => new Uint8Array(), decode: () => gate.promise }
  const seen: string[] = []
  const { hand, owner, clock, subscription } = await puppet(({ id }) => void seen.push(id), { flushMs: 10, codec })
  await hand(0, ['a'])
  owner.lost(0, 'taken')
  gate.resolve(new Uint8Array())
  await clock.advance(100)
  assert.deepEqual([seen, subscription.stats().running], [[], 0])
})

test('a partition that is asked back is drained, settled and then let go, in that order', async () => {
  const gate = deferred()
  const { hand, owner, log, clock } = await puppet(({ id }) => (id === 'b' ? gate.promise : undefined), { concurrency: 1, flushMs: 60_000 })
  await hand(0, ['a'])
  await hand(0, ['b', 'c'])
  owner.revoking(0, 1_000)
  await clock.advance(10)
  assert.deepEqual(
    log.filter((what) => what.startsWith('release')),
    [],
  )
  gate.resolve()
  await clock.advance(10)
  assert.deepEqual(
    log.filter((what) => !what.startsWith('begin')),
    ['settle', 'release 0/1'],
  )
})

test('an epoch that is over brings nothing: what was fetched under it is not handled', async () => {
  const seen: string[] = []
  const { hand, owner } = await puppet(({ id }) => void seen.push(id))
  await hand(0, ['a'])
  owner.assigned(0, 2)
  await hand(0, ['old'], { epoch: 1 }).catch(nothing)
  assert.deepEqual(seen, ['a'])
})

test('a partition that comes while a fetch waits for another is asked for at once', async () => {
  const { hand, owner, wants, clock } = await puppet(nothing)
  await hand(0, ['a'])
  assert.deepEqual([...wants()!.keys()], [0])
  owner.assigned(1, 1)
  await clock.advance(0)
  assert.deepEqual([...wants()!.keys()], [0, 1])
  owner.lost(0, 'taken')
  owner.lost(1, 'taken')
  owner.assigned(2, 1)
  await clock.advance(0)
  assert.ok(wants()?.has(2))
})

test('a fetch that fails is told of and asked again, later each time, until it works', async () => {
  const errors: unknown[] = []
  const { failFetch, hand, clock, subscription, wants } = await puppet(nothing, {}, { hooks: { onError: ({ error }) => void errors.push(error) } })
  const at: number[] = []
  for (let i = 0; i < 4; i++) {
    await failFetch(new Error(`no ${i}`))
    while (!wants()) await clock.advance(10)
    at.push(clock.monotonic())
  }
  assert.equal(errors.length, 4)
  assert.deepEqual(
    at.map((time, i) => time - (at[i - 1] ?? 0)),
    [100, 200, 400, 800],
  )
  assert.ok(subscription.stats().error)
  await hand(0, ['a'])
  assert.equal(subscription.stats().error, undefined)
})

test('suspects run one at a time, each start recorded before it, and the one before it settled', async () => {
  const running: string[] = []
  const gates = new Map<string, () => void>()
  const { hand, log, clock } = await puppet(
    ({ id }) => {
      log.push(`run ${id}`)
      running.push(id)
      return new Promise<void>((resolve) => gates.set(id, resolve))
    },
    { concurrency: 5, flushMs: 60_000 },
  )
  await hand(0, ['a'], { suspect: true })
  assert.deepEqual(running, ['a'])
  gates.get('a')!()
  await clock.advance(0)
  await hand(0, ['b'], { suspect: true })
  gates.get('b')!()
  await clock.advance(0)
  assert.deepEqual(log, ['begin 0', 'run a', 'settle', 'begin 1', 'run b', ...log.slice(5)])
})

test('suspects of two partitions run one after the other, until one has run for long enough not to be what ends processes', async () => {
  const running: string[] = []
  const gates = new Map<string, () => void>()
  const { hand, clock, owner } = await puppet(
    ({ id }) => {
      running.push(id)
      return new Promise<void>((resolve) => gates.set(id, resolve))
    },
    { concurrency: 5, flushMs: 1 },
  )
  owner.assigned(1, 1)
  await clock.advance(0)
  await hand(0, ['a'], { suspect: true })
  await hand(1, ['b'], { suspect: true })
  await clock.advance(100)
  assert.deepEqual(running, ['a'])
  gates.get('a')!()
  await clock.advance(100)
  assert.deepEqual(running, ['a', 'b'])
  await hand(0, ['c'], { suspect: true })
  await clock.advance(4_000)
  assert.deepEqual(running, ['a', 'b'])
  await clock.advance(2_000)
  assert.deepEqual(running, ['a', 'b', 'c'])
  gates.get('b')!()
  gates.get('c')!()
})

test('ten thousand handlers that return no promise do not use up the stack', async () => {
  let n = 0
  const { hand } = await puppet(() => void n++, { prefetch: 20_000, maxInFlight: 20_000, order: 'partition' })
  await hand(0, ['a'])
  await hand(
    0,
    Array.from({ length: 10_000 }, (_, i) => `x${i}`),
  )
  assert.equal(n, 10_001)
})

test('where the broker has a deadline, what is held is extended three times in it, and what is done is not', async () => {
  const gate = deferred()
  const { hand, log, clock } = await puppet(({ id }) => (id === 'b' ? gate.promise : undefined), { concurrency: 2 }, {}, { ackDeadlineMs: 300 })
  await hand(0, ['a'])
  await hand(0, ['b', 'b2', 'c'])
  await clock.advance(310)
  const extensions = log.filter((what) => what.startsWith('extend'))
  assert.deepEqual(extensions, ['extend 1 2', 'extend 1 2', 'extend 1 2'])
  gate.resolve()
  await clock.advance(300)
  assert.equal(log.filter((what) => what.startsWith('extend')).length, 3)
})

test('a closed subscription settles, lets go, leaves, and asks for nothing more', async () => {
  const { hand, log, subscription, clock, wants } = await puppet(nothing, { flushMs: 60_000 })
  await hand(0, ['a'])
  await clock.run(() => subscription.close())
  assert.deepEqual(log.filter((what) => what !== 'close').concat(['close']), ['settle', 'release 0/1', 'close'])
  assert.equal(wants(), undefined)
  await clock.advance(60_000)
  assert.equal(clock.sleeping, 0, 'and starts no timer again')
})

test('options that make no sense are refused', async () => {
  for (const bad of [{ concurrency: 0 }, { concurrency: Number.NaN }, { prefetch: 0 }, { maxInFlight: 0 }, { retry: { maxAttempts: 0 } }])
    await assert.rejects(puppet(nothing, bad), RangeError, JSON.stringify(bad))
  await assert.rejects(puppet(undefined as never), TypeError)
})

test('what a handler returns may keep none of the rules of a promise: that its then throws is a failed run, with and without a codec', async () => {
  for (const codec of [undefined, json(z.unknown())]) {
    const broker = createBroker(memoryDriver())
    let runs = 0
    const lazy = {
      // oxlint-disable-next-line unicorn/no-thenable
      then: () => {
        runs++
        throw new Error('cannot even begin')
      },
    }
    await broker.subscribe('t', { group: 'g', codec: codec as never, retry: { maxAttempts: 2, initialDelayMs: 1 } }, () => lazy)
    await broker.publish({ topic: 't', value: Buffer.from('{}') })
    const letters = broker.deadLetters('t', 'g')
    await waitUntil(async () => (await letters.count()) === 1)
    assert.equal(runs, 2)
    assert.equal((await letters.list()).letters[0]!.error.message, 'cannot even begin')
    assert.equal(broker.stats().running, 0)
    await broker.close()
  }
})

for (const order of ['key', 'partition', 'none'] as const)
  test(`a message that comes again under a new epoch waits for its handler of before, which goes on: order ${order}`, async () => {
    const gates = [deferred(), deferred()]
    const runs: string[] = []
    const { owner, hand, clock, subscription } = await puppet(
      async ({ id }, { attempt }) => {
        runs.push(`${id}${attempt} starts`)
        await (runs.length === 1 ? gates[0] : gates[1])!.promise
        runs.push(`${id}${attempt} ends`)
      },
      { concurrency: 4, order, abortGraceMs: 10 },
    )
    await hand(0, ['a'])
    for (const epoch of [2, 3]) {
      owner.lost(0, 'taken over')
      owner.assigned(0, epoch)
      await clock.advance(100)
      await hand(0, ['a'], { epoch, position: '0' })
    }
    assert.deepEqual([runs, subscription.stats().stuck], [['a1 starts'], 1])
    gates[0]!.resolve()
    await clock.advance(0)
    assert.deepEqual(runs, ['a1 starts', 'a1 ends', 'a1 starts'])
    gates[1]!.resolve()
    await clock.advance(0)
    assert.deepEqual([runs.at(-1), subscription.stats().running, subscription.stats().stuck], ['a1 ends', 0, 0])
  })

test('a hook that gives a promise which rejects is a warning too', async () => {
  const warned = new Promise<Error>((resolve) => process.once('warning', resolve))
  const broker = createBroker(memoryDriver(), { hooks: { onPublish: () => Promise.reject(new Error('not written')) as never } })
  await broker.publish({ topic: 't', value: new Uint8Array() })
  assert.equal((await warned).message, 'Hook onPublish threw: Error: not written')
  await broker.close()
})
