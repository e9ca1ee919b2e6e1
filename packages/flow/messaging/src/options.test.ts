import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { any, bare, describeRefusals, type Refusal } from '@core-backend/testkit/refusals'
import { z } from 'zod'
import { systemClock } from '#internal/clock'
import { createBroker } from './broker.ts'
import { failPublish, reorder } from './faults.ts'
import { brokerFromEnv, brokerFromUrl } from './from-url.ts'
import { memoryDriver } from './memory.ts'
import { memoryStore } from './memory-store.ts'
import { json, message } from './message.ts'
import { openTelemetry } from './otel.ts'
import { postgresDriver, schema } from './postgres.ts'
import { fromEnv } from './settings.ts'

const schemas = 'schema must be a Standard Schema, as those of zod, valibot and arktype are'
const driver = memoryDriver()
const broker = createBroker(driver)
const letters = broker.deadLetters('t', 'g')
const circle: { self?: unknown } = {}
circle.self = circle
const value = new Uint8Array(1)
const handler = (): void => {}
after(() => broker.close())

const subscribe =
  (options: object): Refusal[0] =>
  () =>
    broker.subscribe('t', any({ group: 'g', ...options }), handler)
const publish =
  (parts: object): Refusal[0] =>
  () =>
    broker.publish(any({ topic: 't', value, ...parts }))

const rows: Record<string, readonly Refusal[]> = {
  createBroker: [
    [bare(createBroker), 'TypeError: createBroker: driver must be an object with publish(), consume(), ping(), close(), got undefined'],
    [
      () => createBroker(memoryDriver as never),
      'TypeError: createBroker: driver must be an object with publish(), consume(), ping(), close(), got the function memoryDriver; is a call missing?',
    ],
    [() => createBroker(driver, null as never), 'TypeError: createBroker: options must be an object, got null'],
    [() => createBroker(driver, any([])), 'TypeError: createBroker: options must be an object, got an array'],
    [
      () => createBroker(driver, any({ partition: 4 })),
      'TypeError: createBroker: partition is not an option; there are clock, topics, partitions, deadLetterSuffix, maxMessageBytes, maxPending, middleware, hooks, tracing, random',
    ],
    [() => createBroker(driver, { partitions: 1.5 }), 'RangeError: createBroker: partitions must be an integer from 1 to 1024, got 1.5'],
    [() => createBroker(driver, any({ partitions: '4' })), 'TypeError: createBroker: partitions must be an integer from 1 to 1024, got "4"'],
    [() => createBroker(driver, any({ topics: 'expected' })), `RangeError: createBroker: topics must be 'create' or 'expect', got "expected"`],
    [() => createBroker(driver, { maxPending: Number.NaN }), 'RangeError: createBroker: maxPending must be an integer of at least 1, or Infinity, got NaN'],
    [() => createBroker(driver, { maxMessageBytes: -1 }), 'RangeError: createBroker: maxMessageBytes must be an integer of at least 1, got -1'],
    [
      () => createBroker(driver, any({ hooks: { onPublished: handler } })),
      'TypeError: createBroker: hooks.onPublished is not an option; there are onPublish, onDelivery, onSettled, onError, onStuck',
    ],
    [() => createBroker(driver, any({ hooks: { onError: 'log' } })), 'TypeError: createBroker: hooks.onError must be a function, got "log"'],
    [() => createBroker(driver, any({ middleware: handler })), 'TypeError: createBroker: middleware must be an array, got the function handler'],
    [() => createBroker(driver, any({ middleware: [handler, {}] })), 'TypeError: createBroker: middleware[1] must be a function, got {}'],
    [
      () => createBroker(driver, any({ tracing: openTelemetry })),
      'TypeError: createBroker: tracing must be an object with publish(), handle(), got the function openTelemetry; is a call missing?',
    ],
    [
      () => createBroker(driver, any({ clock: Date })),
      'TypeError: createBroker: clock must be an object with now(), monotonic(), sleep(), got the function Date; is a call missing?',
    ],
    [() => createBroker(driver, any({ deadLetterSuffix: 7 })), 'TypeError: createBroker: deadLetterSuffix must be a string, got 7'],
  ],
  subscribe: [
    [bare(broker.subscribe), 'TypeError: subscribe: topics must be a string or an array of strings, got undefined'],
    [() => broker.subscribe('t', undefined as never, handler), 'TypeError: subscribe: options must be an object, got undefined'],
    [() => broker.subscribe('t', handler as never, undefined as never), 'TypeError: subscribe: options must be an object, got the function handler'],
    [() => broker.subscribe('t', { group: 'g' }, undefined as never), 'TypeError: subscribe: handler must be a function, got undefined'],
    [() => broker.subscribe(any(['t', 7]), {}, handler), 'RangeError: Bad topic 7: 1 to 120 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit'],
    [
      subscribe({ retry: { attempts: 3 } }),
      'TypeError: subscribe: retry.attempts is not an option; there are maxAttempts, initialDelayMs, maxDelayMs, multiplier, isRetryable, onRetry, inlineAttempts',
    ],
    [subscribe({ retry: 3 }), 'TypeError: subscribe: retry must be an object, got 3'],
    [subscribe({ retry: { maxAttempts: 2.5 } }), 'RangeError: subscribe: retry.maxAttempts must be an integer of at least 1, or Infinity, got 2.5'],
    [subscribe({ retry: { initialDelayMs: -1 } }), 'RangeError: subscribe: retry.initialDelayMs must be a number from 0 to 2147483647, got -1'],
    [
      subscribe({ retry: { initialDelayMs: 100, maxDelayMs: 10 } }),
      'RangeError: subscribe: retry.initialDelayMs must be at most maxDelayMs, which is 10, got 100',
    ],
    [subscribe({ retry: { maxDelayMs: '30s' } }), 'TypeError: subscribe: retry.maxDelayMs must be a number from 0 to 2147483647, got "30s"'],
    [subscribe({ retry: { multiplier: 0.5 } }), 'RangeError: subscribe: retry.multiplier must be a number of at least 1, got 0.5'],
    [subscribe({ retry: { onRetry: 'leave' } }), `RangeError: subscribe: retry.onRetry must be 'hold' or 'leave-order', got "leave"`],
    [subscribe({ concurrency: 0 }), 'RangeError: subscribe: concurrency must be an integer of at least 1, or Infinity, got 0'],
    [subscribe({ concurrency: '8' }), 'TypeError: subscribe: concurrency must be an integer of at least 1, or Infinity, got "8"'],
    [subscribe({ maxCrashes: 0 }), 'RangeError: subscribe: maxCrashes must be an integer of at least 1, or Infinity, got 0'],
    [subscribe({ order: 'keys' }), `RangeError: subscribe: order must be 'key' or 'partition' or 'none', got "keys"`],
    [subscribe({ start: 'begin' }), `RangeError: subscribe: start must be 'earliest', 'latest', a Date or a Map of positions by partition, got "begin"`],
    [
      subscribe({ start: new Date('x') }),
      `RangeError: subscribe: start must be 'earliest', 'latest', a Date or a Map of positions by partition, got an invalid Date`,
    ],
    [subscribe({ deadLetter: 'false' }), 'TypeError: subscribe: deadLetter must be true or false, got "false"'],
    [subscribe({ codec: json }), 'TypeError: subscribe: codec must be an object with encode(), decode(), got the function json; is a call missing?'],
    [subscribe({ codec: z.object({}) }), 'TypeError: subscribe: codec must be a codec, got a schema: json(schema) makes one of it'],
    [subscribe({ handlerTimeoutMs: Infinity }), 'RangeError: subscribe: handlerTimeoutMs must be a number from 0 to 2147483647, got Infinity'],
    [subscribe({ drainMs: Infinity }), 'RangeError: subscribe: drainMs must be a number from 0 to 2147483647, got Infinity'],
    [subscribe({ prefetch: 1.5 }), 'RangeError: subscribe: prefetch must be an integer of at least 1, got 1.5'],
    [subscribe({ signal: new AbortController() }), 'TypeError: subscribe: signal must be an AbortSignal, got an instance of AbortController'],
    [subscribe({ group: 7 }), 'TypeError: subscribe: group must be a string, got 7'],
    [() => broker.pull('t', any({})), 'TypeError: pull: group must be a string, got undefined'],
    [
      () => broker.pull('t', any({ group: 'g', handlerTimeoutMs: 5 })),
      'TypeError: pull: handlerTimeoutMs is not an option; there are group, order, start, retry, deadLetter, codec, middleware, abortGraceMs, drainMs, prefetch, maxInFlight, maxCrashes, flushMs, flushEvery, signal',
    ],
    [bare(broker.pull), 'TypeError: pull: options must be an object with group, got undefined'],
  ],
  codecs: [
    [() => json(any(5)), `TypeError: json: ${schemas}, got 5`],
    [() => json(any('x')), `TypeError: json: ${schemas}, got "x"`],
    [() => json(any(null)), `TypeError: json: ${schemas}, got null`],
    [() => json(any(z.object)), `TypeError: json: ${schemas}, got the function object; is a call missing?`],
    [() => json(any({ parse() {} })), `TypeError: json: ${schemas}, got { parse }`],
  ],
  publish: [
    [bare(broker.publish), 'TypeError: A message must be an object with topic, value, got undefined'],
    [() => broker.publish('hello' as never), 'TypeError: A message must be an object with topic, value, got "hello"'],
    [() => broker.publish(message().topic('t').json({}) as never), 'TypeError: A message must be an object with topic, value, got a builder: call its build()'],
    [() => broker.publish([{ topic: 't', value }] as never), 'TypeError: A message must be an object with topic, value, got an array: publishBatch takes many'],
    [publish({ topic: undefined }), 'TypeError: A message must have a topic'],
    [publish({ value: { a: 1 } }), 'TypeError: The body of a message to t must be a Uint8Array, got { a }; use message().json(body) or a codec'],
    [publish({ key: 7 }), 'TypeError: message.key must be a string, got 7'],
    [publish({ id: 7 }), 'TypeError: message.id must be a string, got 7'],
    [publish({ dedupeId: {} }), 'TypeError: message.dedupeId must be a string, got {}'],
    [publish({ headers: 'a: b' }), 'TypeError: message.headers must be an object of strings, got "a: b"'],
    [publish({ headers: new Map() }), 'TypeError: message.headers must be an object of strings, got an instance of Map'],
    [
      publish({ header: { a: 'b' } }),
      'TypeError: header is not a part of a message; there are topic, key, value, headers, id, timestamp, deliverAt, delayMs, dedupeId, tombstone',
    ],
    [
      publish({ topic: undefined, topik: 't' }),
      'TypeError: topik is not a part of a message; there are topic, key, value, headers, id, timestamp, deliverAt, delayMs, dedupeId, tombstone',
    ],
    [publish({ id: '' }), 'RangeError: message.id must not be empty: leave it away, or give one that tells messages apart'],
    [publish({ deliverAt: 5, delayMs: 5 }), 'TypeError: A message has deliverAt or delayMs, not both'],
    [() => message().json(Promise.resolve(1)), 'TypeError: Not a JSON value: an instance of Promise; is an await missing?'],
    [() => message().json(new Map()), 'TypeError: Not a JSON value: an instance of Map'],
    [
      () => message().topic('t').json({ a: 1n }),
      'TypeError: Cannot write the body of a message to t as JSON: Do not know how to serialize a BigInt; give a bigint as a string',
    ],
    [
      () => message({ id: 'm' }).json({ a: 1n }),
      'TypeError: Cannot write the body of a message as JSON: Do not know how to serialize a BigInt; give a bigint as a string',
    ],
    [() => json().encode(circle), 'TypeError: Cannot write the body of a message as JSON: Converting circular structure to JSON'],
    [
      subscribe({ middleware: [async () => undefined] }),
      'TypeError: subscribe: what middleware gives for the next handler must be a function, got an instance of Promise',
    ],
    [() => broker.lag('t', undefined as never), 'RangeError: Bad group undefined: 1 to 64 of A-Z a-z 0-9 _ -, beginning with a letter or a digit, no dot'],
    [publish({ timestamp: Number.NaN }), 'RangeError: message.timestamp must be ms since the epoch, got NaN'],
    [publish({ deliverAt: new Date() }), 'TypeError: message.deliverAt must be ms since the epoch, got an instance of Date'],
    [publish({ delayMs: -1 }), 'RangeError: message.delayMs must be a number of at least 0, got -1'],
    [publish({ tombstone: 1 }), 'TypeError: message.tombstone must be true or false, got 1'],
    [() => broker.publish({ topic: 't', value }, any({ timeout: 5 })), 'TypeError: publish: timeout is not an option; there are signal, timeoutMs'],
    [
      () => broker.publish({ topic: 't', value }, { timeoutMs: Infinity }),
      'RangeError: publish: timeoutMs must be a number from 0 to 2147483647, got Infinity',
    ],
    [() => broker.publish({ topic: 't', value }, null as never), 'TypeError: publish: options must be an object, got null'],
    [() => broker.publishBatch('x' as never), 'TypeError: publishBatch: messages must be an array, got "x"'],
    [() => broker.publishBatch([], any({ timeoutMs: '5' })), 'TypeError: publishBatch: timeoutMs must be a number from 0 to 2147483647, got "5"'],
    [() => message().delay(-1), 'RangeError: delay must be a number of at least 0, got -1'],
    [() => message().deliverAt(new Date('x')), 'RangeError: deliverAt must be ms since the epoch, got NaN'],
    [() => message().deliverAt('now' as never), 'TypeError: deliverAt must be ms since the epoch, got "now"'],
    [() => message().body(undefined as never, {}), 'TypeError: body: codec must be an object with encode(), decode(), got undefined'],
  ],
  'topics, groups and letters': [
    [() => broker.createTopic('t', any({ retention: { maxAge: 5 } })), 'TypeError: createTopic: retention.maxAge is not an option; there are maxAgeMs'],
    [() => broker.createTopic('t', any({ groups: 'g' })), 'TypeError: createTopic: groups must be an array, got "g"'],
    [() => broker.createTopic('t', { partitions: 1_025 }), 'RangeError: createTopic: partitions must be an integer from 1 to 1024, got 1025'],
    [() => broker.createGroup('t', 'g', any({ from: 'latest' })), 'TypeError: createGroup: from is not an option; there are start'],
    [() => broker.resetGroup('t', 'g', undefined as never), 'TypeError: resetGroup: options must be an object with to, got undefined'],
    [
      () => broker.resetGroup('t', 'g', any({ to: undefined })),
      `TypeError: resetGroup: to must be 'earliest', 'latest', a Date or a Map of positions by partition, got undefined`,
    ],
    [
      () => broker.createGroup('t', 'g', { start: new Map([[0, 'abc']]) }),
      'RangeError: createGroup: start: the position of partition 0 must be a position that the broker gave, got "abc"',
    ],
    [
      () => broker.resetGroup('t', 'g', { to: new Map([[0, '']]) }),
      'RangeError: resetGroup: to: the position of partition 0 must be a position that the broker gave, got ""',
    ],
    [
      () => broker.createGroup('t', 'g', { start: any(new Map([[0, 5]])) }),
      'TypeError: createGroup: start: the position of partition 0 must be a string, got 5',
    ],
    [subscribe({ start: new Map([['0', '5']]) }), 'TypeError: subscribe: start: a partition must be an integer of at least 0, got "0"'],
    [() => broker.peek('t', { after: 'abc' }), 'RangeError: peek: after must be a position that the broker gave, got "abc"'],
    [() => letters.list({ after: '-1' }), 'RangeError: list: after must be a position that the broker gave, got "-1"'],
    [() => broker.peek('t', { limit: -1 }), 'RangeError: peek: limit must be an integer of at least 1, got -1'],
    [() => broker.health(any({ timeoutMs: 5 })), 'TypeError: health: timeoutMs is not an option; there are signal'],
    [() => letters.list(any({ filter: 'x' })), 'TypeError: list: filter must be a function, got "x"'],
    [bare(letters.replay), 'TypeError: replay needs ids or a filter; for all letters: filter: () => true'],
    [() => letters.replay({}), 'TypeError: replay needs ids or a filter; for all letters: filter: () => true'],
    [() => letters.replay(any(5)), 'TypeError: replay: options must be an object, got 5'],
    [
      () => letters.replay(any({ filter: () => true, dryrun: true })),
      'TypeError: replay: dryrun is not an option; there are ids, filter, order, limit, ratePerSecond, dryRun, maxReplays, edit, signal',
    ],
    [() => letters.replay(any({ ids: 'a' })), 'TypeError: replay: ids must be an array, got "a"'],
    [() => letters.replay(any('l1')), 'TypeError: replay: options must be an object, got "l1"; letters are given as { ids: [letterId, …] }'],
    [() => letters.discard(any('l1')), 'TypeError: discard: options must be an object, got "l1"; letters are given as { ids: [letterId, …] }'],
    [() => letters.discard(any(['l1'])), 'TypeError: discard: options must be an object, got an array; letters are given as { ids: [letterId, …] }'],
    [bare(letters.discard), 'TypeError: discard needs ids or a filter; for all letters: filter: () => true'],
    [() => broker.deadLetters('t', any(undefined)), 'TypeError: deadLetters(topic, group): group must be a string, got undefined; each group has its own'],
  ],
  'drivers and the rest': [
    [() => memoryDriver(any({ emulate: 'kafka' })), `RangeError: memoryDriver: emulate must be 'postgres', got "kafka"`],
    [() => memoryDriver({ leaseMs: 0 }), 'RangeError: memoryDriver: leaseMs must be a number from 1 to 2147483647, got 0'],
    [
      () => memoryDriver(any({ store: memoryStore })),
      'TypeError: memoryDriver: store must be an object with messageCount(), reset(), got the function memoryStore; is a call missing?',
    ],
    [() => memoryStore(any({ overflow: 'drop' })), `RangeError: memoryStore: overflow must be 'reject' or 'wait' or 'drop-oldest', got "drop"`],
    [() => memoryStore({ maxMessages: 0 }), 'RangeError: memoryStore: maxMessages must be an integer of at least 1, got 0'],
    [bare(postgresDriver), 'TypeError: postgresDriver: options must be an object with client, got undefined'],
    [() => postgresDriver(any({})), 'TypeError: postgresDriver: client must be an object with query(), got undefined'],
    [() => postgresDriver(any({ client: { query: handler }, setup: 'none' })), `RangeError: postgresDriver: setup must be 'create' or 'expect', got "none"`],
    [
      () => postgresDriver(any({ client: { query: handler }, pollMs: '5' })),
      'TypeError: postgresDriver: pollMs must be a number from 1 to 2147483647, got "5"',
    ],
    [() => schema(any({ name: 'x' })), 'TypeError: schema: name is not an option; there are schema'],
    [() => openTelemetry(any({ name: 'x' })), 'TypeError: openTelemetry: name is not an option; there are tracer, system'],
    [() => fromEnv({}, any({ prefix: 7 })), 'TypeError: fromEnv: prefix must be a string, got 7'],
    [() => brokerFromUrl('kafka://h'), 'RangeError: No driver for kafka: in a broker URL; there are memory:, postgres://, postgresql://'],
    [bare(brokerFromUrl), 'TypeError: A broker URL must be a string, got undefined'],
    [
      () => brokerFromUrl('memory:', any({ drain: 1 })),
      'TypeError: brokerFromUrl: drain is not an option; there are clock, topics, partitions, deadLetterSuffix, maxMessageBytes, maxPending, middleware, hooks, tracing, random, signal',
    ],
    [() => brokerFromEnv({}, any({ partitions: 0 })), 'RangeError: brokerFromUrl: partitions must be an integer from 1 to 1024, got 0'],
    [() => reorder(driver, { rate: 2 }), 'RangeError: fault: rate must be a number from 0 to 1, got 2'],
    [() => failPublish(driver, any({ status: 'lost' })), `RangeError: failPublish: status must be 'rejected' or 'unknown', got "lost"`],
  ],
}

describeRefusals(rows)

test('what a handler says with wrong options is a failed run', async () => {
  const said: string[] = []
  const wrong = [{ delay: 5 }, { delayMs: -1 }, 5]
  const subscription = await broker.subscribe('said', { group: 'g' }, (_, ctx) => {
    for (const options of wrong)
      try {
        ctx.retry(options as never)
      } catch (error) {
        said.push(String(error))
      }
    ctx.skip()
  })
  await broker.publish({ topic: 'said', value })
  while (broker.stats().skipped === 0) await new Promise(setImmediate)
  await subscription.close()
  assert.deepEqual(said, [
    'TypeError: ctx.retry: delay is not an option; there are delayMs',
    'RangeError: ctx.retry: delayMs must be a number of at least 0, got -1',
    'TypeError: ctx.retry: options must be an object, got 5',
  ])
})

test('what a handler says after it has ended is a warning: it changes nothing any more', async () => {
  const warned = new Promise<Error>((resolve) => process.once('warning', resolve))
  const subscription = await broker.subscribe('late', { group: 'g' }, (_, ctx) => void setImmediate(() => ctx.retry()))
  await broker.publish({ topic: 'late', id: 'm', value })
  assert.equal((await warned).message, 'ctx.retry() after the handler had ended changes nothing: m; does it return its promise?')
  await subscription.close()
})

test('a message that was received, peeked at or is a dead letter may be published again as it is', async () => {
  const seen: string[] = []
  await broker.publish({ topic: 'again', id: 'first', value })
  const [peeked] = await broker.peek('again', { limit: 1 })
  await broker.publish({ ...peeked!, topic: 'again', id: 'peeked' })
  const subscription = await broker.subscribe('again', { group: 'g', start: 'earliest', retry: { maxAttempts: 1 } }, async (received) => {
    seen.push(received.id)
    if (received.id === 'first') await broker.publish({ ...received, id: 'received' })
    if (received.id === 'received') throw new Error('a letter')
  })
  const dead = broker.deadLetters('again', 'g')
  while ((await dead.count()) === 0) await new Promise(setImmediate)
  await broker.publish({ ...(await dead.list()).letters[0]!, topic: 'again', id: 'letter' })
  while (!seen.includes('letter')) await new Promise(setImmediate)
  await subscription.close()
  assert.deepEqual(new Set(seen), new Set(['first', 'peeked', 'received', 'letter']))
})

test('a batch refuses what is no message by itself, and stores the others', async () => {
  const good = { topic: 'batch', key: 'k', value }
  const results = await broker.publishBatch([good, undefined, 'x', { ...good, key: 7 }, good] as never)
  assert.deepEqual(
    results.map((result) => [result.status, result.status === 'stored' ? '' : result.error.message]),
    [
      ['stored', ''],
      ['rejected', 'Cannot publish to undefined: A message must be an object with topic, value, got undefined'],
      ['rejected', 'Cannot publish to undefined: A message must be an object with topic, value, got "x"'],
      ['rejected', 'Cannot publish to batch: message.key must be a string, got 7'],
      ['stored', ''],
    ],
  )
})

test('undefined is absent, and an instance of a class may have more than its options', async () => {
  class Watch {
    readonly seen: string[] = []
    onPublish({ id }: { id: string }): void {
      this.seen.push(id)
    }
  }
  const hooks = new Watch()
  const watched = createBroker(memoryDriver(), { hooks, clock: systemClock, partitions: undefined, maxPending: Infinity, middleware: [] })
  await watched.publish({ topic: 't', value, id: 'a', key: undefined }, { timeoutMs: undefined })
  await watched.close()
  assert.deepEqual(hooks.seen, ['a'])
})
