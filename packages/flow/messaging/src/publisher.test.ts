import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deferred } from '#internal/abort'
import { createBroker } from './broker.ts'
import type { BrokerDriver, Capabilities, OutgoingMessage, PublishResult } from './driver.ts'
import { memoryDriver } from './memory.ts'
import { virtualClock } from './virtual-clock.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

/** A broker over a driver that stores as `answer` says; `calls` are the ids of each call. */
function broker(
  answer: (messages: readonly OutgoingMessage[], signal: AbortSignal) => Promise<readonly PublishResult[]>,
  more: Partial<Capabilities> = {},
  maxPending = 100,
) {
  const clock = virtualClock()
  const calls: string[][] = []
  const driver: BrokerDriver = {
    ...memoryDriver({ clock }),
    publish: (messages, { signal }) => {
      calls.push(messages.map(({ id }) => id))
      return answer(messages, signal)
    },
  }
  const capabilities = { ...driver.capabilities, ...more }
  return { clock, calls, broker: createBroker({ ...driver, capabilities }, { clock, maxPending }) }
}

const stored: PublishResult = { status: 'stored' }
const allStored = async (messages: readonly OutgoingMessage[]): Promise<PublishResult[]> => messages.map(() => stored)
const refused: PublishResult = { status: 'rejected', error: Object.assign(new Error('no room'), { retryable: true }) }
const never = (): Promise<never> => new Promise(() => undefined)
const input = (id: string, key?: string) => ({ topic: 't', id, key, value: bytes(id) })

test('what is published in one turn goes in one call, as large as the driver likes', async () => {
  const { broker: one, calls } = broker(allStored, { publish: { maxBatch: 3, inFlight: 1 } })
  await Promise.all(['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((id) => one.publish(input(id))))
  assert.deepEqual(calls, [['a', 'b', 'c'], ['d', 'e', 'f'], ['g']])
})

test('large bodies make small batches', async () => {
  const { broker: one, calls } = broker(allStored, { publish: { maxBatch: 100, inFlight: 1 } })
  const value = new Uint8Array(900_000)
  const results = await one.publishBatch(Array.from({ length: 12 }, (_, i) => ({ topic: 't', id: String(i), value })))
  assert.ok(results.every(({ status }) => status === 'stored'))
  assert.deepEqual(
    calls.map((ids) => ids.length),
    [5, 5, 2],
  )
})

test('no more calls are under way than the driver takes; what comes meanwhile is gathered', async () => {
  const gates = [deferred(), deferred(), deferred()]
  let call = 0
  const {
    broker: one,
    calls,
    clock,
  } = broker(
    async (messages) => {
      await gates[call++]!.promise
      return allStored(messages)
    },
    { publish: { maxBatch: 100, inFlight: 2 } },
  )
  await one.createTopic('t')
  const publishing: Promise<unknown>[] = []
  for (const id of ['a', 'b', 'c', 'd']) {
    publishing.push(one.publish(input(id)))
    await clock.advance(0)
  }
  assert.deepEqual(calls, [['a'], ['b']])
  gates[0]!.resolve()
  await clock.advance(0)
  assert.deepEqual(calls, [['a'], ['b'], ['c', 'd']])
  for (const gate of gates) gate.resolve()
  await Promise.all(publishing)
})

test('without an answer in time a message is unknown, and one that was never sent is certainly not stored', async () => {
  const { broker: one, clock } = broker(never, { publish: { maxBatch: 1, inFlight: 1 } })
  await one.createTopic('t')
  const outcomes: unknown[] = []
  const keep = (error: { code: string; retryable: boolean }): void => void outcomes.push([error.code, error.retryable, clock.monotonic()])
  const both = [one.publish(input('sent'), { timeoutMs: 100 }).catch(keep), one.publish(input('waits'), { timeoutMs: 200 }).catch(keep)]
  await clock.advance(99)
  assert.deepEqual(outcomes, [])
  await clock.advance(150)
  await Promise.all(both)
  assert.deepEqual(outcomes, [
    ['ERR_MESSAGING_PUBLISH_UNKNOWN', true, 100],
    ['ERR_MESSAGING_PUBLISH', true, 200],
  ])
})

test('a short timeout is kept though a longer one is running', async () => {
  const { broker: one, clock } = broker((messages) => (messages[0]!.id === 'answered' ? allStored(messages) : never()))
  await one.publish(input('answered'))
  let code: unknown
  void one.publish(input('short'), { timeoutMs: 50 }).catch((error: { code: string }) => (code = error.code))
  await clock.advance(100)
  assert.equal(code, 'ERR_MESSAGING_PUBLISH_UNKNOWN')
})

test('the driver is told when nobody waits any more', async () => {
  let signal: AbortSignal | undefined
  const { broker: one, clock } = broker((_messages, given) => {
    signal = given
    return never()
  })
  await one.createTopic('t')
  const publishing = one.publish(input('a'), { timeoutMs: 50 }).catch(() => undefined)
  await clock.advance(10)
  assert.equal(signal!.aborted, false)
  await clock.advance(60)
  await publishing
  assert.equal(signal!.aborted, true)
})

test('an abort rejects with its reason; a message that still waited is never sent', async () => {
  const gate = deferred()
  const {
    broker: one,
    calls,
    clock,
  } = broker(
    async (messages) => {
      await gate.promise
      return allStored(messages)
    },
    { publish: { maxBatch: 1, inFlight: 1 } },
  )
  await one.createTopic('t')
  const stop = new AbortController()
  const reason = new Error('enough')
  const first = one.publish(input('first'))
  const second = one.publish(input('second'), { signal: stop.signal })
  await clock.advance(0)
  stop.abort(reason)
  await assert.rejects(second, reason)
  gate.resolve()
  await first
  await clock.advance(0)
  assert.deepEqual(calls, [['first']])
})

test('a batch that is aborted has an answer for each message', async () => {
  const { broker: one, clock } = broker(never, { publish: { maxBatch: 2, inFlight: 1 } })
  await one.createTopic('t')
  const stop = new AbortController()
  const publishing = one.publishBatch(
    ['a', 'b', 'c'].map((id) => input(id)),
    { signal: stop.signal },
  )
  await clock.advance(0)
  stop.abort(new Error('enough'))
  assert.deepEqual(
    (await publishing).map(({ id, status }) => `${id} ${status}`),
    ['a unknown', 'b unknown', 'c rejected'],
  )
})

test('more than maxPending is ERR_MESSAGING_BACKPRESSURE, retryable, until there is room', async () => {
  const gate = deferred()
  const { broker: one, clock } = broker(
    async (messages) => {
      await gate.promise
      return allStored(messages)
    },
    { publish: { maxBatch: 1, inFlight: 1 } },
    3,
  )
  await one.createTopic('t')
  const publishing = [one.publish(input('under way'))]
  await clock.advance(0)
  publishing.push(...['a', 'b', 'c'].map((id) => one.publish(input(id))))
  await assert.rejects(one.publish(input('d')), { code: 'ERR_MESSAGING_BACKPRESSURE', retryable: true })
  gate.resolve()
  await Promise.all(publishing)
  await one.publish(input('e'))
})

test('a refusal keeps its cause and whether it makes sense to try again', async () => {
  const { broker: one } = broker(async (messages) => messages.map(() => refused))
  await assert.rejects(one.publish(input('a')), { code: 'ERR_MESSAGING_PUBLISH', retryable: true, cause: (refused as { error: unknown }).error })
  const { broker: two } = broker(async (messages) =>
    messages.map(() => ({ status: 'rejected', error: Object.assign(new Error('final'), { retryable: false }) })),
  )
  await assert.rejects(two.publish(input('a')), { code: 'ERR_MESSAGING_PUBLISH', retryable: false })
})

test('a driver that answers too little, or throws, leaves nobody without an answer', async () => {
  const { broker: silent } = broker(async () => [stored])
  const results = await silent.publishBatch([input('a'), input('b')])
  assert.deepEqual(
    results.map(({ status }) => status),
    ['stored', 'unknown'],
  )
  const { broker: throwing } = broker(() => Promise.reject(new Error('closed')))
  await assert.rejects(throwing.publish(input('a')), { code: 'ERR_MESSAGING_PUBLISH' })
})

test('without batchOrder a key has one unconfirmed message at a time, and other keys do not wait for it', async () => {
  const { broker: one, calls } = broker(allStored, { batchOrder: false })
  await one.publishBatch([input('a1', 'a'), input('a2', 'a'), input('b1', 'b'), input('x'), input('a3', 'a'), input('b2', 'b'), input('y')])
  assert.deepEqual(calls, [['a1', 'b1', 'x', 'y'], ['a2', 'b2'], ['a3']])
})

for (const [what, capabilities] of [
  ['in a later wave, without batchOrder', { batchOrder: false }],
  ['in a later call, where the batch is split', { publish: { maxBatch: 3, inFlight: 1 } }],
  ['in a later call that is under way at the same time', { publish: { maxBatch: 3, inFlight: 4 } }],
] as const)
  test(`after a message of a key was refused, no later one of that key in the batch is stored: ${what}`, async () => {
    const kept: string[] = []
    const { broker: one } = broker(async (messages) => {
      const lanes = new Set<string>()
      return messages.map((message) => {
        if (message.id === 'a2' || (message.key !== undefined && lanes.has(message.key))) {
          lanes.add(message.key!)
          return refused
        }
        kept.push(message.id)
        return stored
      })
    }, capabilities)
    const results = await one.publishBatch(['a1', 'a2', 'b1', 'a3', 'b2', 'a4', 'b3'].map((id) => input(id, id[0])))
    assert.deepEqual(
      results.map(({ id, status }) => `${id} ${status}`),
      ['a1 stored', 'a2 rejected', 'b1 stored', 'a3 rejected', 'b2 stored', 'a4 rejected', 'b3 stored'],
    )
    assert.deepEqual(kept.sort(), ['a1', 'b1', 'b2', 'b3'])
  })

test('what makes no sense is a TypeError or a RangeError, and reaches no driver', async () => {
  const { broker: one, calls } = broker(allStored, { delay: { resolutionMs: 1, maxMs: 1_000 }, dedupe: undefined })
  const value = bytes('')
  for (const bad of [{ value: 'text' }, { value: undefined }, { value: [1] }, { value: bytes('x'), tombstone: true }, { value, key: 7 }])
    await assert.rejects(one.publish({ topic: 't', ...bad } as never), TypeError)
  for (const bad of [{ delayMs: Number.NaN }, { delayMs: 2_000 }, { deliverAt: Infinity }, { headers: { 'a b': '' } }, { topic: 'a b' }])
    await assert.rejects(one.publish({ topic: 't', value, ...bad }), RangeError)
  await assert.rejects(one.publish({ topic: 't', value, dedupeId: 'd' }), { code: 'ERR_MESSAGING_UNSUPPORTED' })
  assert.deepEqual(calls, [])
})

test('close waits for what is under way, and settles at its end what has no answer', async () => {
  const { broker: one, clock } = broker(never)
  await one.createTopic('t')
  const publishing = one.publish(input('a'), { timeoutMs: 3_600_000 }).catch((error: { code: string }) => error.code)
  await clock.advance(0)
  await clock.run(() => one.close())
  assert.equal(await publishing, 'ERR_MESSAGING_PUBLISH_UNKNOWN')
  assert.ok(clock.monotonic() <= 31_000)
})

test('a tracer that throws changes nothing for what is published, and is told of as a warning', async () => {
  const warnings: string[] = []
  const listen = ({ message }: Error): void => void warnings.push(message)
  process.on('warning', listen)
  for (const publish of [() => assert.fail('at the beginning'), () => () => assert.fail('at the end'), () => 'no function' as never]) {
    const one = createBroker(memoryDriver(), { tracing: { publish, handle: (_message, _context, next) => next() } })
    assert.equal((await one.publish(input('a'))).id, 'a')
    const results = await one.publishBatch([input('b', 'k'), input('c', 'k')])
    assert.deepEqual(
      results.map(({ status }) => status),
      ['stored', 'stored'],
    )
    await one.close()
  }
  await new Promise(setImmediate)
  process.off('warning', listen)
  assert.equal(warnings.filter((text) => text.startsWith('Tracing publish threw')).length, 9)
})

test('what a group publishes of a message keeps its trace: a dead letter and a replay have the headers as they were', async () => {
  const clock = virtualClock()
  let spans = 0
  const one = createBroker(memoryDriver({ clock }), {
    clock,
    tracing: {
      publish: ({ headers }) => {
        headers['traceparent'] = `span-${++spans}`
        return () => undefined
      },
      handle: (_message, _context, next) => next(),
    },
  })
  const seen: unknown[] = []
  const retry = { maxAttempts: 2, onRetry: 'leave-order' } as const
  await one.subscribe('t', { group: 'g', retry }, ({ headers }) => {
    seen.push(headers['traceparent'])
    throw new Error('always')
  })
  await one.publish(input('a'))
  const dead = one.deadLetters('t', 'g')
  await clock.advance(60_000)
  const [letter] = (await dead.list()).letters
  assert.equal(letter!.headers['traceparent'], 'span-1')
  await dead.replay({ filter: () => true })
  await clock.advance(60_000)
  assert.deepEqual([seen, spans], [['span-1', 'span-1', 'span-1', 'span-1'], 1])
  await clock.run(() => one.close())
})
