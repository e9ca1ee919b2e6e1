import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deferred } from '#internal/abort'
import { z } from 'zod'
import { EventHandlingError } from './errors.ts'
import { defineEvent } from './event.ts'
import type { EventHandler, Inbox } from './handler.ts'
import type { DeliveryContext } from './message.ts'
import type { HandlerMetrics } from './metrics.ts'
import { createEventProcessor } from './processor.ts'
import { createEventRegistry } from './registry.ts'
import { receivedMessage, virtualClock } from './testing.ts'

const schema = z.object({ id: z.string() })
const Created = defineEvent('activity.created', { version: 2, schema, topic: 'activities', aggregateId: ({ id }) => id }).upcast(
  1,
  z.object({ oldId: z.string() }),
  ({ oldId }) => ({ id: oldId }),
)
const Deleted = defineEvent('activity.deleted', { version: 1, schema, topic: 'activities', aggregateId: ({ id }) => id })
const bytes = (data: unknown): Uint8Array => Buffer.from(JSON.stringify(data))

/** A broker's context that remembers what it was told. */
function delivery(signal?: AbortSignal): { ctx: DeliveryContext; letters: { reason: string; error: Error | undefined; headers: Record<string, string> }[] } {
  const letters: { reason: string; error: Error | undefined; headers: Record<string, string> }[] = []
  const ctx: DeliveryContext = {
    group: 'stats',
    deadLetter: (reason, { error, headers = {} } = {}) => void letters.push({ reason, error, headers }),
    ...(signal && { signal }),
  }
  return { ctx, letters }
}

/** Fails the first `times` runs. */
function flaky(times: number, log: string[], name: string): () => Promise<void> {
  let runs = 0
  return async () => {
    log.push(name)
    if (runs++ < times) throw new Error(`${name} failed`)
  }
}

test('all handlers of an event run, functions and objects, synchronous and not', async () => {
  const log: string[] = []
  class Audit implements EventHandler<ReturnType<typeof Created>> {
    readonly #prefix = 'audit'
    handle(event: ReturnType<typeof Created>): void {
      log.push(`${this.#prefix} ${event.data.id}`)
    }
  }
  const processor = createEventProcessor()
    .on(Created, async (event) => void log.push(`stats ${event.data.id}`), { name: 'stats' })
    .on(Created, new Audit())
    .on(Deleted, () => assert.fail('not this event'), { name: 'deleted' })
  await processor.processEvent(Created({ id: 'a' }))
  await processor.processRawEvent(bytes({ id: 'b' }), 'activity.created', { version: 2 })
  await processor.processMessage(receivedMessage(Created({ id: 'c' })))
  assert.deepEqual(log, ['stats a', 'audit a', 'stats b', 'audit b', 'stats c', 'audit c'])
  assert.deepEqual(processor.topics, ['activities'])
})

test('bytes that are no JSON are told without a topic, since they have none', async () => {
  const processor = createEventProcessor().on(Created, () => assert.fail(), { name: 'h' })
  await assert.rejects(processor.processRawEvent(Buffer.from('no'), 'activity.created', { id: 'm1' }), {
    code: 'ERR_EVENTS_ENVELOPE',
    message: /^Cannot read message m1 as an event: \S/,
  })
  const message = { ...receivedMessage(Created({ id: 'a' }, { id: 'm2' })), value: Buffer.from('no') }
  await assert.rejects(processor.processMessage(message), { message: /^Cannot read message m2 of activities as an event: \S/ })
})

test('handlers see the latest version only, from bytes and from events', async () => {
  const seen: unknown[] = []
  const processor = createEventProcessor().on(Created, ({ version, data }) => void seen.push([version, data]), { name: 'h' })
  await processor.processRawEvent(bytes({ oldId: 'a' }), 'activity.created')
  await processor.processEvent({ ...Created({ id: 'b' }), version: 1, data: { oldId: 'b' } })
  assert.deepEqual(seen, [
    [2, { id: 'a' }],
    [2, { id: 'b' }],
  ])
  await assert.rejects(processor.processEvent({ ...Created({ id: 'b' }), version: 3 }), { code: 'ERR_EVENTS_VERSION' })
})

test('a failing handler is retried alone', async () => {
  const log: string[] = []
  const clock = virtualClock()
  const processor = createEventProcessor({ clock, retry: { maxAttempts: 3, initialDelayMs: 100 } })
    .on(Created, flaky(0, log, 'good'), { name: 'good' })
    .on(Created, flaky(2, log, 'bad'), { name: 'bad' })
    .on(Created, () => void log.push('sync'), { name: 'sync' })
  const handling = processor.processEvent(Created({ id: 'a' }))
  await clock.advance(300)
  await handling
  assert.deepEqual(log, ['good', 'bad', 'sync', 'bad', 'bad'])
  const [good, bad] = processor.metrics().handlers
  assert.deepEqual([good!.processed, good!.retried, good!.failed], [1, 0, 0])
  assert.deepEqual([bad!.processed, bad!.retried, bad!.failed, bad!.inFlight], [1, 2, 0, 0])
})

test('waits stay below their bound, which grows up to its limit', async () => {
  const clock = virtualClock()
  const delays: number[] = []
  const processor = createEventProcessor({ clock, hooks: { onRetry: ({ delayMs }) => void delays.push(delayMs) } }).on(Created, () => assert.fail(), {
    name: 'h',
    retry: { maxAttempts: 6, initialDelayMs: 10, multiplier: 10, maxDelayMs: 500 },
  })
  const handling = assert.rejects(processor.processEvent(Created({ id: 'a' })), EventHandlingError)
  await clock.advance(10 + 100 + 500 * 3)
  await handling
  assert.equal(delays.length, 5)
  for (const [i, bound] of [10, 100, 500, 500, 500].entries()) assert.ok(delays[i]! >= 0 && delays[i]! <= bound, `${delays[i]} of ${bound}`)
})

test('final failure names handlers, errors, attempts, and those that need not run again', async () => {
  const clock = virtualClock()
  const processor = createEventProcessor({ clock, retry: { maxAttempts: 2 } })
    .on(Created, () => {}, { name: 'fine' })
    .on(Created, () => Promise.reject(new Error('no database')), { name: 'stats' })
    .on(Created, () => Promise.reject('a string'), { name: 'audit', retry: { maxAttempts: 1 } }) // oxlint-disable-line prefer-promise-reject-errors -- handlers throw anything
  const event = Created({ id: 'a' })
  const handling = assert.rejects(processor.processEvent(event), (error: unknown) => {
    assert.ok(error instanceof EventHandlingError)
    assert.equal(error.code, 'ERR_EVENTS_HANDLING')
    assert.equal(error.retryable, false)
    assert.equal(error.message, `Cannot handle activity.created ${event.id}: stats (2x: no database), audit (1x: a string)`)
    assert.deepEqual(
      error.failures.map(({ handler, attempts }) => [handler, attempts]),
      [
        ['stats', 2],
        ['audit', 1],
      ],
    )
    assert.equal(error.cause, error.failures[0]!.error)
    assert.deepEqual(error.done, ['fine'])
    return true
  })
  await clock.advance(100)
  await handling
})

test('errors that say retryable: false, or that the predicate refuses, are not retried', async () => {
  const runs: string[] = []
  const processor = createEventProcessor()
    .on(
      Created,
      () => {
        runs.push('a')
        throw Object.assign(new Error('never'), { retryable: false })
      },
      { name: 'a' },
    )
    .on(
      Created,
      () => {
        runs.push('b')
        throw new TypeError('bug')
      },
      { name: 'b', retry: { isRetryable: (error) => !(error instanceof TypeError) } },
    )
  await assert.rejects(processor.processEvent(Created({ id: 'a' })), EventHandlingError)
  assert.deepEqual(runs, ['a', 'b'])
})

test('a predicate that throws has not refused the error, and the other handlers do not suffer from it', async () => {
  const log: string[] = []
  const clock = virtualClock()
  const isRetryable = (error: unknown): boolean => (error as { response: { status: number } }).response.status >= 500
  const processor = createEventProcessor({ clock, retry: { maxAttempts: 2, isRetryable } })
    .on(Created, flaky(0, log, 'good'), { name: 'good' })
    .on(Created, flaky(9, log, 'bad'), { name: 'bad' })
    .on(Created, flaky(1, log, 'flaky'), { name: 'flaky' })
  const { ctx, letters } = delivery()
  const handling = processor.processMessage(receivedMessage(Created({ id: 'a' })), ctx)
  await clock.advance(200)
  await handling
  assert.match(letters[0]!.reason, /: bad \(2x: bad failed\)$/)
  assert.deepEqual(letters[0]!.headers, { 'events-done': 'good,flaky' })
  assert.deepEqual(log.toSorted(), ['bad', 'bad', 'flaky', 'flaky', 'good'])
  assert.ok(processor.metrics().handlers.every(({ inFlight }) => inFlight === 0))
})

test('in a subscription the final failure is a dead letter, and its replay runs the failed handlers only', async () => {
  const log: string[] = []
  const clock = virtualClock()
  const processor = createEventProcessor({ clock, retry: { maxAttempts: 2 } })
    .on(Created, flaky(0, log, 'good'), { name: 'good' })
    .on(Created, flaky(2, log, 'bad'), { name: 'bad' })
    .on(Created, flaky(9, log, 'worse'), { name: 'worse' })
  const message = receivedMessage(Created({ id: 'a' }))
  const first = delivery()
  const handling = processor.processMessage(message, first.ctx)
  await clock.advance(200)
  await handling
  assert.equal(first.letters.length, 1)
  assert.match(first.letters[0]!.reason, /bad \(2x: bad failed\), worse \(2x: worse failed\)$/)
  assert.ok(first.letters[0]!.error instanceof EventHandlingError)
  assert.deepEqual(first.letters[0]!.headers, { 'events-done': 'good' })
  assert.equal(processor.metrics().deadLettered, 1)

  log.length = 0
  const replay = delivery()
  const replaying = processor.processMessage({ ...message, headers: { ...message.headers, ...first.letters[0]!.headers } }, replay.ctx)
  await clock.advance(200)
  await replaying
  assert.deepEqual(log, ['bad', 'worse', 'worse'])
  assert.deepEqual(replay.letters[0]!.headers, { 'events-done': 'good,bad' })
})

test('a replay with nothing left to do succeeds', async () => {
  const processor = createEventProcessor().on(Created, () => assert.fail('ran again'), { name: 'h' })
  const { ctx, letters } = delivery()
  const message = receivedMessage(Created({ id: 'a' }))
  await processor.processMessage({ ...message, headers: { ...message.headers, 'events-done': 'h' } }, ctx)
  assert.deepEqual(letters, [])
  const [{ processed, duplicates }] = processor.metrics().handlers as [HandlerMetrics]
  assert.deepEqual([processed, duplicates], [0, 1], 'whoever wrote the header, what it left out is counted')
})

test('what cannot be decoded is a dead letter, and no handler runs', async () => {
  const processor = createEventProcessor({ onUnknown: 'skip' })
    .on(Created, () => assert.fail('ran'), { name: 'h' })
    .onRaw('*', () => assert.fail('ran'), { name: 'raw' })
  const message = receivedMessage(Created({ id: 'a' }))
  for (const [headers, value, code] of [
    [{ ce_dataversion: '3' }, message.value, 'ERR_EVENTS_VERSION'],
    [{}, bytes({ id: 1 }), 'ERR_EVENTS_INVALID'],
    [{}, Buffer.from('{'), 'ERR_EVENTS_ENVELOPE'],
  ] as const) {
    const { ctx, letters } = delivery()
    await processor.processMessage({ ...message, value, headers: { ...message.headers, ...headers } }, ctx)
    assert.deepEqual(
      letters.map(({ error, headers }) => [(error as { code?: string }).code, headers]),
      [[code, {}]],
    )
  }
})

test('without dead letters (a broadcast, a direct call) the failure is thrown', async () => {
  const processor = createEventProcessor({ retry: { maxAttempts: 1 } }).on(Created, () => assert.fail('x'), { name: 'h' })
  const message = receivedMessage(Created({ id: 'a' }))
  await assert.rejects(processor.processMessage(message), EventHandlingError)
  const { ctx, letters } = delivery()
  await assert.rejects(processor.processMessage(message, { ...ctx, group: undefined }), EventHandlingError)
  assert.deepEqual(letters, [])
})

test('unknown events: dead letter by default, skipped when asked; known ones without a handler are skipped', async () => {
  const skipped: string[] = []
  const hooks = { onSkipped: ({ event, known }: { event: string; known: boolean }) => void skipped.push(`${event} ${known}`) }
  const registry = createEventRegistry([Created, Deleted])
  const strict = createEventProcessor({ registry, hooks }).on(Created, () => {}, { name: 'h' })
  const lenient = createEventProcessor({ onUnknown: 'skip', hooks })
  const { ctx, letters } = delivery()
  const stranger = { ...receivedMessage(Created({ id: 'a' })), headers: { ce_type: 'stranger' } }
  await strict.processMessage(stranger, ctx)
  assert.equal((letters[0]!.error as { code?: string }).code, 'ERR_EVENTS_UNKNOWN')
  await strict.processMessage(receivedMessage(Deleted({ id: 'a' })), ctx)
  await lenient.processMessage(stranger, ctx)
  await lenient.processEvent(Deleted({ id: 'a' }))
  assert.equal(letters.length, 1)
  assert.deepEqual(skipped, ['activity.deleted true', 'stranger false', 'activity.deleted false'])
  assert.equal(lenient.metrics().skipped, 2)
  await assert.rejects(createEventProcessor().processEvent(Deleted({ id: 'a' })), { code: 'ERR_EVENTS_UNKNOWN' })
})

test('raw handlers: patterns, the bytes as they came, beside typed ones', async () => {
  const seen: string[] = []
  const processor = createEventProcessor()
    .on(Created, () => void seen.push('typed'), { name: 'typed' })
    .onRaw('legacy.*', ({ type, value }) => void seen.push(`legacy ${type} ${Buffer.from(value).toString()}`), { name: 'legacy' })
    .onRaw('*', ({ type, value }) => void seen.push(`all ${type} ${value.length}`), { name: 'all' })
  await processor.processRawEvent(Buffer.from('not json'), 'legacy.user.created')
  await processor.processRawEvent(Buffer.from([1, 2]), 'legacyXuser')
  await processor.processEvent(Created({ id: 'a' }))
  assert.deepEqual(seen, ['legacy legacy.user.created not json', 'all legacy.user.created 8', 'all legacyXuser 2', 'typed', 'all activity.created 10'])
})

test('messages of others say their event by typeOf', async () => {
  const seen: string[] = []
  const processor = createEventProcessor({ typeOf: ({ headers }) => headers['event_type'] })
    .on(Deleted, ({ data }) => void seen.push(data.id), { name: 'typed' })
    .onRaw('user.*', ({ id, headers }) => void seen.push(`${id} ${headers['event_type']}`), { name: 'raw' })
  const message = (type: string) => ({ ...receivedMessage(Deleted({ id: 'a' })), id: 'm1', headers: { event_type: type } })
  await processor.processMessage(message('activity.deleted'))
  await processor.processMessage(message('user.created'))
  assert.deepEqual(seen, ['a', 'm1 user.created'])
})

test('names: unique for an event, raw ones for all; anonymous handlers need one', () => {
  const processor = createEventProcessor()
    .on(Created, () => {}, { name: 'stats' })
    .on(Deleted, () => {}, { name: 'stats' })
  assert.throws(() => processor.on(Created, () => {}, { name: 'stats' }), /TypeError: A handler named stats is registered for activity.created already/)
  assert.throws(() => processor.onRaw('x.*', () => {}, { name: 'stats' }), TypeError)
  processor.onRaw('x.*', () => {}, { name: 'raw' })
  assert.throws(() => processor.on(Created, () => {}, { name: 'raw' }), TypeError)
  const wanted = 'A handler needs a name of 1 to 128 of A-Z a-z 0-9 _ . : / $ -, got'
  const where = 'one that has none of its own gets it as'
  assert.throws(() => processor.on(Created, () => {}), { name: 'TypeError', message: `${wanted} ""; ${where} on(Event, handler, { name })` })
  assert.throws(() => processor.on(Created, { handle: () => {} }), { name: 'TypeError', message: `${wanted} "Object"; ${where} on(Event, handler, { name })` })
  assert.throws(() => processor.onRaw('y.*', () => {}), { name: 'TypeError', message: `${wanted} ""; ${where} onRaw(pattern, handler, { name })` })
  assert.throws(() => processor.on(Created, () => {}, { name: 'a,b' }), { name: 'TypeError', message: `${wanted} "a,b"` })
  function named(): void {}
  processor.on(Created, named)
  assert.throws(() => processor.on(Created, named), TypeError)
  const Twin = defineEvent('activity.created', { version: 1, schema, topic: 't' })
  assert.throws(() => processor.on(Twin, () => {}, { name: 'twin' }), /TypeError: activity.created has two definitions/)
  assert.throws(() => processor.on(Deleted, () => {}, { name: 'r', retry: { maxAttempts: 0 } }), RangeError)
  assert.throws(() => processor.on(Deleted, () => {}, { name: 'r', timeoutMs: 0 }), RangeError)
})

test('off: the handler is gone, its name free; the event stays known', async () => {
  const log: string[] = []
  const processor = createEventProcessor().on(Created, () => void log.push('first'), { name: 'h' })
  await processor.processEvent(Created({ id: 'a' }))
  assert.equal(processor.off(Created, 'h'), true)
  assert.equal(processor.off(Created, 'h'), false)
  await processor.processEvent(Created({ id: 'a' }))
  processor.on(Created, () => void log.push('second'), { name: 'h' })
  await processor.processEvent(Created({ id: 'a' }))
  processor.onRaw('activity.*', () => void log.push('raw'), { name: 'r' }).off('activity.*', 'r')
  await processor.processEvent(Created({ id: 'a' }))
  assert.deepEqual(log, ['first', 'second', 'second'])
})

test('an abort ends waits, and the delivery goes back instead of to the dead letters', async () => {
  const clock = virtualClock()
  const controller = new AbortController()
  const processor = createEventProcessor({ clock }).on(Created, () => assert.fail('x'), { name: 'h' })
  const { ctx, letters } = delivery(controller.signal)
  const handling = processor.processMessage(receivedMessage(Created({ id: 'a' })), ctx)
  await clock.advance(0)
  assert.equal(clock.sleepers, 1)
  const reason = new Error('partition lost')
  controller.abort(reason)
  await assert.rejects(handling, reason)
  assert.deepEqual([letters.length, clock.sleepers], [0, 0])
  assert.deepEqual([processor.metrics().handlers[0]!.failed, processor.metrics().handlers[0]!.inFlight], [0, 0])
  await assert.rejects(processor.processEvent(Created({ id: 'a' }), { signal: controller.signal }), reason)
})

test('handlers see the abort by ctx.signal; one that ends well all the same counts', async () => {
  const controller = new AbortController()
  const aborted = deferred()
  const processor = createEventProcessor().on(
    Created,
    (_, { signal }) =>
      new Promise<void>((resolve) =>
        signal.addEventListener('abort', () => {
          aborted.resolve()
          resolve()
        }),
      ),
    { name: 'h' },
  )
  const handling = processor.processEvent(Created({ id: 'a' }), { signal: controller.signal })
  controller.abort()
  await aborted.promise
  await handling
  assert.equal(processor.metrics().handlers[0]!.processed, 1)
})

test('timeout: the signal aborts and the run counts as failed, to be retried', async () => {
  const clock = virtualClock()
  let runs = 0
  const processor = createEventProcessor({ clock, retry: { maxAttempts: 2, initialDelayMs: 0 } }).on(
    Created,
    (_, { signal }) => (++runs === 2 ? undefined : new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))),
    { name: 'slow', timeoutMs: 100 },
  )
  const handling = processor.processEvent(Created({ id: 'a' }))
  await clock.advance(99)
  assert.equal(runs, 1)
  await clock.advance(1)
  await handling
  assert.equal(runs, 2)
  assert.equal(clock.sleepers, 0)
})

test('timeout: a handler that ignores its signal is never run beside itself', async () => {
  const clock = virtualClock()
  const end = deferred()
  let runs = 0
  const processor = createEventProcessor({ clock, abortGraceMs: 50 }).on(Created, () => (runs++, end.promise), { name: 'deaf', timeoutMs: 100 })
  const handling = assert.rejects(processor.processEvent(Created({ id: 'a' })), (error: unknown) => {
    assert.ok(error instanceof EventHandlingError)
    const cause = error.failures[0]!.error as { code: string; message: string }
    assert.equal(cause.code, 'ERR_EVENTS_TIMEOUT')
    assert.match(cause.message, /deaf ignores its signal/)
    return true
  })
  await clock.advance(150)
  await handling
  assert.equal(runs, 1)
  assert.equal(processor.metrics().handlers[0]!.stuck, 1)
  end.resolve()
  await clock.advance(0)
  assert.equal(processor.metrics().handlers[0]!.stuck, 0)
})

test('timeout: a handler may return what it likes', async () => {
  const processor = createEventProcessor({ clock: virtualClock() }).on(Created, async () => 'over', { name: 'h', timeoutMs: 10 })
  await processor.processEvent(Created({ id: 'a' }))
  assert.equal(processor.metrics().handlers[0]!.stuck, 0)
})

test('timeout: what ends within the grace counts by how it ends', async () => {
  const clock = virtualClock()
  const processor = createEventProcessor({ clock, retry: { maxAttempts: 1 } })
    .on(Created, (_, { signal }) => new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve())), { name: 'ends', timeoutMs: 10 })
    .on(Deleted, (_, { signal }) => new Promise<void>((_, reject) => signal.addEventListener('abort', () => reject(new Error('cut')))), {
      name: 'fails',
      timeoutMs: 10,
    })
  const ending = processor.processEvent(Created({ id: 'a' }))
  const failing = assert.rejects(processor.processEvent(Deleted({ id: 'a' })), (error: EventHandlingError) => {
    const timeout = error.failures[0]!.error as Error & { code: string }
    assert.deepEqual([timeout.code, (timeout.cause as Error).message], ['ERR_EVENTS_TIMEOUT', 'cut'])
    return true
  })
  await clock.advance(10)
  await ending
  await failing
})

test('policy: wraps each run and may refuse it', async () => {
  const clock = virtualClock()
  let open = true
  let executed = 0
  const policy = {
    async execute<T>(fn: () => Promise<T>, { signal }: { signal: AbortSignal }): Promise<T> {
      executed++
      assert.equal(signal.aborted, false)
      if (open) throw new Error('circuit open')
      return fn()
    },
  }
  let runs = 0
  const processor = createEventProcessor({ clock, hooks: { onRetry: () => void (open = false) } }).on(Created, () => void runs++, {
    name: 'h',
    policy,
    timeoutMs: 1_000,
  })
  const handling = processor.processEvent(Created({ id: 'a' }))
  await clock.advance(100)
  await handling
  assert.deepEqual([executed, runs], [2, 1])
})

test('policy: one that keeps the answer of the inbox to itself is named, and there is no other run', async () => {
  let effects = 0
  const inbox = {
    run: async (_message: unknown, _handler: string, fn: (tx: undefined) => Promise<void>) => {
      await fn(undefined)
      return { duplicate: false }
    },
  }
  const policy = { execute: (fn: () => Promise<unknown>) => fn().then(() => undefined as never) }
  const processor = createEventProcessor({ inbox }).on(Created, () => void effects++, { name: 'h', policy })
  const message = /: h \(1x: The policy of h must resolve to what the function given to its execute resolves to, got undefined\)$/
  await assert.rejects(processor.processEvent(Created({ id: 'a' })), { message })
  assert.equal(effects, 1)
})

test('inbox: each handler runs once a message, with its transaction', async () => {
  const done = new Set<string>()
  const inbox = {
    async run(message: { id: string; timestamp: number; idStable: boolean }, handler: string, fn: (tx: { sql: string }) => Promise<void>) {
      const key = `${message.id} ${handler} ${message.timestamp} ${message.idStable}`
      if (done.has(key)) return { duplicate: true }
      await fn({ sql: `tx of ${handler}` })
      done.add(key)
      return { duplicate: false }
    },
  }
  const seen: string[] = []
  const clock = virtualClock()
  let broken = true
  const processor = createEventProcessor({ inbox, clock, retry: { maxAttempts: 1 } })
    .on(Created, (_, { tx }) => void seen.push(tx.sql), { name: 'a' })
    .on(Created, () => (broken ? assert.fail('x') : void seen.push('b')), { name: 'b' })
  const event = Created({ id: 'x' })
  await assert.rejects(processor.processMessage(receivedMessage(event)), EventHandlingError)
  broken = false
  await processor.processMessage(receivedMessage(event))
  await processor.processEvent(event)
  assert.deepEqual(seen, ['tx of a', 'b'])
  assert.deepEqual([...done], [`${event.id} a ${event.occurredAt.getTime()} true`, `${event.id} b ${event.occurredAt.getTime()} true`])
  assert.deepEqual(
    processor.metrics().handlers.map(({ processed, duplicates, failed }) => [processed, duplicates, failed]),
    [
      [1, 2, 0],
      [1, 1, 1],
    ],
  )
})

test('inbox: it is told whether the id of raw bytes is stable', async () => {
  const told: boolean[] = []
  const inbox: Inbox<undefined> = { run: async ({ idStable }) => (told.push(idStable), { duplicate: false }) }
  const processor = createEventProcessor({ inbox }).on(Created, () => {}, { name: 'h' })
  await processor.processRawEvent(bytes({ id: 'a' }), 'activity.created', { version: 2 })
  await processor.processRawEvent(bytes({ id: 'a' }), 'activity.created', { version: 2, id: 'given' })
  assert.deepEqual(told, [false, true])
})

/** Effects and records of one transaction: kept when it commits. `commit` may refuse. */
function sharedInbox(commit: () => void = () => {}): Required<Inbox<string[]>> & { transactions: string[][]; effects: string[] } {
  const records = new Set<string>()
  const transactions: string[][] = []
  const effects: string[] = []
  const runTogether: Required<Inbox<string[]>>['runTogether'] = async ({ id }, names, fn) => {
    const fresh = names.filter((name) => !records.has(`${id} ${name}`))
    transactions.push(fresh)
    const tx: string[] = []
    if (fresh.length > 0) await fn(tx, fresh)
    commit()
    effects.push(...tx)
    for (const name of fresh) records.add(`${id} ${name}`)
    return { duplicate: fresh.length === 0 }
  }
  return {
    transactions,
    effects,
    runTogether,
    run: async (message, name, fn) => (await runTogether(message, [name], fn)) as { duplicate: boolean },
  }
}

test('a shared transaction: the handlers of an event commit together, those that ran before are left out', async () => {
  const inbox = sharedInbox()
  const attempts: unknown[] = []
  const processor = createEventProcessor({ inbox, sharedTransaction: true })
  for (const name of ['a', 'b', 'c']) processor.on(Created, (_, { tx, attempt, handler }) => void (tx.push(name), attempts.push([handler, attempt])), { name })
  const event = Created({ id: 'x' })
  await inbox.run({ id: event.id, timestamp: 0, idStable: true }, 'b', async (tx) => void tx.push('b before'))
  await processor.processMessage(receivedMessage(event))
  await processor.processEvent(event)
  assert.deepEqual(inbox.transactions, [['b'], ['a', 'c'], []])
  assert.deepEqual(inbox.effects, ['b before', 'a', 'c'])
  assert.deepEqual(attempts, [
    ['a', 1],
    ['c', 1],
  ])
  assert.deepEqual(
    processor.metrics().handlers.map(({ processed, duplicates, inFlight }) => [processed, duplicates, inFlight]),
    [
      [1, 1, 0],
      [0, 2, 0],
      [1, 1, 0],
    ],
  )
})

test('a shared transaction that a handler fails is undone once all have ended, and counts for none: each goes on in its own', async () => {
  const inbox = sharedInbox()
  const clock = virtualClock()
  const log: string[] = []
  let runs = 0
  const processor = createEventProcessor({ inbox, sharedTransaction: true, clock, retry: { maxAttempts: 2 } })
    .on(Created, (_, { tx }) => void tx.push('a'), { name: 'a' })
    .on(
      Created,
      (_, { tx, attempt }) => {
        tx.push('b undone')
        log.push(`b ${attempt}`)
        if (runs++ < 2) throw new Error('twice')
        tx.push('b')
      },
      { name: 'b' },
    )
    .on(
      Created,
      async (_, { tx }) => {
        await clock.sleep(50)
        log.push(inbox.effects.includes('a') ? 'c with a committed' : 'c')
        tx.push('c')
      },
      { name: 'c' },
    )
  const handling = processor.processEvent(Created({ id: 'x' }))
  await clock.advance(49)
  assert.deepEqual(inbox.transactions, [['a', 'b', 'c']], 'the transaction ends when its last handler has')
  await clock.advance(1_000)
  await handling
  assert.deepEqual(inbox.transactions, [['a', 'b', 'c'], ['a'], ['b'], ['c'], ['b']])
  assert.deepEqual(inbox.effects.toSorted(), ['a', 'b', 'b undone', 'c'])
  assert.deepEqual(
    log.filter((line) => line.startsWith('b')),
    ['b 1', 'b 1', 'b 2'],
    'the first run counts for none',
  )
  assert.deepEqual(
    log.filter((line) => line.startsWith('c')),
    ['c', 'c with a committed'],
  )
  const { handlers, separated } = processor.metrics()
  assert.equal(separated, 1)
  assert.deepEqual(
    handlers.map(({ processed, retried, failed, inFlight }) => [processed, retried, failed, inFlight]),
    [
      [1, 0, 0, 0],
      [1, 1, 0, 0],
      [1, 0, 0, 0],
    ],
  )
})

test('a shared transaction that does not commit is as if it had not been; a handler that fails for good takes none with it', async () => {
  let refusals = 1
  const inbox = sharedInbox(() => {
    if (refusals-- > 0) throw new Error('the connection is gone')
  })
  const processor = createEventProcessor({ inbox, sharedTransaction: true, retry: { maxAttempts: 1 } })
    .on(Created, (_, { tx }) => void tx.push('a'), { name: 'a' })
    .on(Created, ({ data }, { tx }) => (data.id === 'bad' ? Promise.reject(new Error('never')) : tx.push('b')), { name: 'b' })
  await processor.processEvent(Created({ id: 'x' }))
  assert.deepEqual([inbox.effects, processor.metrics().separated], [['a', 'b'], 1])
  await assert.rejects(processor.processEvent(Created({ id: 'bad' })), (error: EventHandlingError) => {
    assert.deepEqual([error.failures.map(({ handler, attempts }) => [handler, attempts]), error.done], [[['b', 1]], ['a']])
    return true
  })
  assert.deepEqual(inbox.effects, ['a', 'b', 'a'])
})

test('no transaction is shared with a handler that has a timeout or a policy, nor after an abort; an inbox that cannot is refused', async () => {
  const inbox = sharedInbox()
  const abort = new AbortController()
  const processor = createEventProcessor({ inbox, sharedTransaction: true })
    .on(Created, () => {}, { name: 'a' })
    .on(Created, () => {}, { name: 'b', timeoutMs: 1_000 })
    .on(Deleted, () => {}, { name: 'a' })
    .on(Deleted, () => Promise.reject((abort.abort(new Error('shutdown')), new Error('x'))), { name: 'b' })
  await processor.processEvent(Created({ id: 'x' }))
  await assert.rejects(processor.processEvent(Deleted({ id: 'x' }), { signal: abort.signal }), /shutdown/)
  assert.deepEqual(inbox.transactions, [['a'], ['b'], ['a', 'b']])
  assert.deepEqual(
    processor.metrics().handlers.map(({ inFlight }) => inFlight),
    [0, 0, 0, 0],
  )
  assert.throws(() => createEventProcessor({ inbox: { run: inbox.run }, sharedTransaction: true }), TypeError)
})

test('ctx: attempt, handler, message, and the correlation for what follows', async () => {
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  const followed: unknown[] = []
  const processor = createEventProcessor().on(
    Created,
    (_, ctx) => {
      const { tenantId, correlationId, causationId, traceparent } = Deleted({ id: 'b' }, ctx.correlation)
      followed.push({ tenantId, correlationId, causationId, traceparent, attempt: ctx.attempt, handler: ctx.handler, topic: ctx.message?.topic })
    },
    { name: 'h' },
  )
  const first = Created({ id: 'a' }, { id: 'e1', tenantId: 'acme', traceparent })
  await processor.processMessage(receivedMessage(first))
  await processor.processEvent(Created({ id: 'a' }, { id: 'e2', correlationId: 'e1' }))
  assert.deepEqual(followed, [
    { tenantId: 'acme', correlationId: 'e1', causationId: 'e1', traceparent, attempt: 1, handler: 'h', topic: 'activities' },
    { tenantId: undefined, correlationId: 'e1', causationId: 'e2', traceparent: undefined, attempt: 1, handler: 'h', topic: undefined },
  ])
})

test('hooks: each is told, and what one throws is a warning that changes nothing', async () => {
  const told: string[] = []
  const clock = virtualClock()
  const processor = createEventProcessor({
    clock,
    retry: { maxAttempts: 2 },
    hooks: {
      onProcessed: ({ handler, attempt, durationMs }) => void told.push(`processed ${handler} ${attempt} ${durationMs}`),
      onRetry: ({ handler, attempt }) => void told.push(`retry ${handler} ${attempt}`),
      onFailed: ({ handler, attempt, error }) => void told.push(`failed ${handler} ${attempt} ${(error as Error).message}`),
      onDeadLetter: ({ event, error }) => {
        told.push(`letter ${event} ${(error as { code?: string }).code}`)
        throw new Error('from the hook')
      },
    },
  })
    .on(Created, () => {}, { name: 'good' })
    .on(Created, () => Promise.reject(new Error('x')), { name: 'bad' })
  const warned = deferred<Error>()
  process.once('warning', warned.resolve)
  const { ctx, letters } = delivery()
  const handling = processor.processMessage(receivedMessage(Created({ id: 'a' })), ctx)
  await clock.advance(100)
  await handling
  assert.deepEqual(told, ['processed good 1 0', 'retry bad 1', 'failed bad 2 x', 'letter activity.created ERR_EVENTS_HANDLING'])
  assert.equal(letters.length, 1)
  assert.equal((await warned.promise).message, 'Hook onDeadLetter threw: Error: from the hook')
})

test('metrics: latency of each run in cumulative buckets', async () => {
  const clock = virtualClock()
  const processor = createEventProcessor({ clock }).on(Created, ({ data }) => clock.sleep(Number(data.id)), { name: 'h' })
  for (const ms of ['1', '20', '40000']) {
    const handling = processor.processEvent(Created({ id: ms }))
    assert.equal(processor.metrics().handlers[0]!.inFlight, 1)
    await clock.advance(Number(ms))
    await handling
  }
  const { event, handler, processed, inFlight, latencyMs } = processor.metrics().handlers[0]!
  assert.deepEqual([event, handler, processed, inFlight], ['activity.created', 'h', 3, 0])
  const at = (le: number): number | undefined => latencyMs.buckets.find((bucket) => bucket.le === le)?.count
  assert.deepEqual([latencyMs.count, latencyMs.sum, at(0.5), at(1), at(25), at(30_000), at(Infinity)], [3, 40_021, 0, 1, 2, 2, 3])
})

test('many unknown names do not grow the memory of plans without bound, and are still told apart', async () => {
  const seen: string[] = []
  const processor = createEventProcessor({ onUnknown: 'skip' }).onRaw('n.7*', ({ type }) => void seen.push(type), { name: 'h' })
  for (let i = 0; i < 2_500; i++) await processor.processRawEvent(Buffer.from(''), `n.${i}`)
  assert.equal(seen.length, 111)
  assert.equal(processor.metrics().skipped, 2_389)
})
