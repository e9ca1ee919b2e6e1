import { any, bare, describeRefusals, type Refusal } from '@core-backend/testkit/refusals'
import { z } from 'zod'
import { createEventProcessor, createEventRegistry, createWorker, defineEvent, eventPublisher, toMessage } from './index.ts'
import { receivedMessage } from './testing.ts'

const schema = z.object({ id: z.string() })
const Ran = defineEvent('ran', { version: 2, schema, topic: 't', aggregateId: ({ id }) => id })
const ran = Ran({ id: 'a' })
const handler = (): void => {}
const processor = createEventProcessor()
const publisher = eventPublisher({ publish: async () => {} })
const subscriber = { subscribe: async () => ({ close: async () => {} }) }

const define =
  (options: object): Refusal[0] =>
  () =>
    defineEvent('e', any({ version: 1, schema, topic: 't', ...options }))
const make =
  (options: unknown): Refusal[0] =>
  () =>
    Ran({ id: 'a' }, any(options))
const on =
  (options: unknown): Refusal[0] =>
  () =>
    processor.on(Ran, handler, any(options))
const worker =
  (options: object): Refusal[0] =>
  () =>
    createWorker(any({ subscriber, processor, group: 'g', ...options }))

const rows: Record<string, readonly Refusal[]> = {
  'definitions and events': [
    [bare(defineEvent), "TypeError: An event's name must be a string, got undefined"],
    [() => defineEvent('e', any(undefined)), 'TypeError: e: options must be an object with version, schema, topic, got undefined'],
    [define({ versions: 1 }), 'TypeError: e: versions is not an option; there are version, schema, topic, aggregateId, key, description'],
    [define({ version: 1.5 }), 'RangeError: e: version must be an integer of at least 1, got 1.5'],
    [define({ version: undefined }), 'TypeError: e: version must be an integer of at least 1, got undefined'],
    [define({ schema: {} }), 'TypeError: e: schema must be a Standard Schema, as those of zod, valibot and arktype are, got {}'],
    [define({ topic: undefined }), 'TypeError: e: topic must be a string, got undefined'],
    [define({ topic: 'a b' }), 'RangeError: e: topic must be 1 to 120 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit, got "a b"'],
    [define({ topic: '' }), 'RangeError: e: topic must be 1 to 120 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit, got ""'],
    [define({ topic: '.a' }), 'RangeError: e: topic must be 1 to 120 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit, got ".a"'],
    [
      define({ topic: 'a'.repeat(121) }),
      `RangeError: e: topic must be 1 to 120 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit, got "${'a'.repeat(100)}…"`,
    ],
    [
      define({ schema: z.object }),
      'TypeError: e: schema must be a Standard Schema, as those of zod, valibot and arktype are, got the function object; is a call missing?',
    ],
    [() => Ran({ id: '' }), 'TypeError: ran: aggregateId must be text without control characters and outer blanks, got ""'],
    [make({ aggregateId: ' a' }), 'TypeError: ran: aggregateId must be text without control characters and outer blanks, got " a"'],
    [define({ aggregateId: 'id' }), 'TypeError: e: aggregateId must be a function, got "id"'],
    [() => Ran.upcast(1, schema, any(undefined)), 'TypeError: ran: upcaster of version 1 must be a function, got undefined'],
    [
      () => Ran.upcast(1, any({}), any(handler)),
      'TypeError: ran: schema of version 1 must be a Standard Schema, as those of zod, valibot and arktype are, got {}',
    ],
    [
      make({ tenant: 'acme' }),
      'TypeError: ran: tenant is not an option; there are id, occurredAt, aggregateId, tenantId, correlationId, causationId, traceparent, tracestate',
    ],
    [make(null), 'TypeError: ran: options must be an object, got null'],
    [make({ occurredAt: 'nonsense' }), 'TypeError: ran: occurredAt must be a Date, got "nonsense"'],
    [make({ occurredAt: Number.NaN }), 'TypeError: ran: occurredAt must be a Date, got NaN'],
    [make({ occurredAt: new Date('nonsense') }), 'RangeError: ran: occurredAt must be a time, got an invalid Date'],
    [make({ id: 7 }), 'TypeError: ran: id must be text without control characters and outer blanks, got 7'],
    [bare(createEventRegistry), 'TypeError: createEventRegistry: definitions must be an array, got undefined'],
    [() => createEventRegistry(any([Ran, 'ran'])), 'TypeError: createEventRegistry: definitions[1] must be what defineEvent returns, got "ran"'],
    [bare(toMessage), 'TypeError: An event must be what its definition makes, got undefined'],
    [() => toMessage(any(Ran)), 'TypeError: An event must be what its definition makes, got the function ran'],
    [() => toMessage(ran, any({ sauce: '/x' })), 'TypeError: toMessage: sauce is not an option; there are source, correlation'],
  ],
  processor: [
    [
      () => createEventProcessor(any({ onUnknow: 'skip' })),
      'TypeError: createEventProcessor: onUnknow is not an option; there are registry, onUnknown, retry, inbox, sharedTransaction, typeOf, abortGraceMs, hooks, clock',
    ],
    [() => createEventProcessor(any({ onUnknown: 'x' })), `RangeError: createEventProcessor: onUnknown must be 'skip' or 'deadLetter', got "x"`],
    [
      () => createEventProcessor(any({ retry: { attempts: 3 } })),
      'TypeError: createEventProcessor: retry.attempts is not an option; there are maxAttempts, initialDelayMs, maxDelayMs, multiplier, isRetryable',
    ],
    [() => createEventProcessor(any({ inbox: { once: handler } })), 'TypeError: createEventProcessor: inbox must be an object with run(), got { once }'],
    [
      () => createEventProcessor(any({ inbox: { once: handler, runner: handler } })),
      'TypeError: createEventProcessor: inbox must be an object with run(), got { once, runner }; call its runner(transaction)',
    ],
    [
      () => createEventProcessor({ retry: { initialDelayMs: 100, maxDelayMs: 10 } }),
      'RangeError: createEventProcessor: retry.initialDelayMs must be at most maxDelayMs, which is 10, got 100',
    ],
    [() => createEventProcessor(any({ typeOf: 'event_type' })), 'TypeError: createEventProcessor: typeOf must be a function, got "event_type"'],
    [() => createEventProcessor({ abortGraceMs: -1 }), 'RangeError: createEventProcessor: abortGraceMs must be a number from 0 to 2147483647, got -1'],
    [
      () => createEventProcessor(any({ hooks: { onError: handler } })),
      'TypeError: createEventProcessor: hooks.onError is not an option; there are onProcessed, onRetry, onFailed, onSeparated, onSkipped, onDeadLetter',
    ],
    [
      () => createEventProcessor(any({ registry: { names: [] } })),
      'TypeError: createEventProcessor: registry must be what createEventRegistry returns, got { names }',
    ],
    [bare(processor.on), 'TypeError: on: event must be what defineEvent returns, got undefined'],
    [() => processor.on(any('ran'), handler), 'TypeError: on: event must be what defineEvent returns, got "ran"'],
    [() => processor.on(Ran, any(undefined)), 'TypeError: on: handler must be a function or an object with handle(), got undefined'],
    [() => processor.on(Ran, any({ run: handler })), 'TypeError: on: handler must be a function or an object with handle(), got { run }'],
    [on({ timeout: 5 }), 'TypeError: on: timeout is not an option; there are name, retry, timeoutMs, policy'],
    [on({ timeoutMs: Infinity }), 'RangeError: on: timeoutMs must be a number from 1 to 2147483647, got Infinity'],
    [on({ retry: { maxAttempts: 1.5 } }), 'RangeError: on: retry.maxAttempts must be an integer of at least 1, or Infinity, got 1.5'],
    [on({ retry: { initialDelayMs: 100, maxDelayMs: 10 } }), 'RangeError: on: retry.initialDelayMs must be at most maxDelayMs, which is 10, got 100'],
    [on({ policy: handler }), 'TypeError: on: policy must be an object with execute(), got the function handler; is a call missing?'],
    [on('stats'), 'TypeError: on: options must be an object, got "stats"'],
    [bare(processor.onRaw), 'TypeError: onRaw: pattern must be a string, got undefined'],
    [() => processor.onRaw('x.*', any(undefined)), 'TypeError: onRaw: handler must be a function or an object with handle(), got undefined'],
    [bare(processor.processEvent), 'TypeError: An event must be what its definition makes, got undefined'],
    [() => processor.processEvent(ran, any({ abort: 1 })), 'TypeError: processEvent: abort is not an option; there are signal'],
    [bare(processor.processRawEvent), 'TypeError: processRawEvent: bytes must be a Uint8Array, got undefined'],
    [() => processor.processRawEvent(new Uint8Array(1), any(undefined)), 'TypeError: processRawEvent: type must be a string, got undefined'],
    [() => processor.processRawEvent(new Uint8Array(1), 'x', { version: 0 }), 'RangeError: processRawEvent: version must be an integer of at least 1, got 0'],
    [bare(processor.processMessage), 'TypeError: A message must be an object with value, headers, got undefined'],
  ],
  'publisher and worker': [
    [bare(eventPublisher), 'TypeError: eventPublisher: target must be an object with publish(), got undefined'],
    [() => eventPublisher(any({})), 'TypeError: eventPublisher: target must be an object with publish(), got {}'],
    [() => eventPublisher({ publish: async () => {} }, any({ source: 7 })), 'TypeError: eventPublisher: source must be a string, got 7'],
    [bare(publisher.publish), 'TypeError: An event must be what its definition makes, got undefined'],
    [
      () => publisher.publish(any(receivedMessage(ran))),
      'TypeError: An event must be what its definition makes, got { id, topic, key, value, headers, timestamp, idStable }',
    ],
    [() => publisher.publish(ran, any({ timeoutMs: 5 })), 'TypeError: publish: timeoutMs is not an option; there are correlation, signal'],
    [() => publisher.publishBatch(any('ran')), 'TypeError: publishBatch: events must be an array, got "ran"'],
    [bare(createWorker), 'TypeError: createWorker: options must be an object with subscriber, processor, group, got undefined'],
    [worker({ group: undefined }), 'TypeError: createWorker: group must be a string, got undefined'],
    [worker({ subscriber: {} }), 'TypeError: createWorker: subscriber must be an object with subscribe(), got {}'],
    [worker({ topics: 't' }), 'TypeError: createWorker: topics must be an array, got "t"'],
    [worker({ concurrency: 0 }), 'RangeError: createWorker: concurrency must be an integer of at least 1, or Infinity, got 0'],
    [worker({ retry: {} }), 'TypeError: createWorker: retry is not an option; there are subscriber, processor, topics, group, concurrency, subscription'],
    [worker({ subscription: { retry: {} } }), 'TypeError: createWorker: subscription.retry is not an option: the processor retries'],
    [worker({ subscription: 5 }), 'TypeError: createWorker: subscription must be an object, got 5'],
  ],
}

describeRefusals(rows)
