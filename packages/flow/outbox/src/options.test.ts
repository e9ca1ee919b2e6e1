import { any, bare, describeRefusals, type Refusal } from '@core-backend/testkit/refusals'
import { createInbox, createOutbox, memoryStore, relay } from './index.ts'

const memory = memoryStore()
const outbox = createOutbox({ store: memory.outbox })
const inbox = createInbox({ store: memory.inbox })
const value = new Uint8Array(1)
const publisher = { publish: async (): Promise<void> => {} }
const work = async (): Promise<void> => {}

const moving =
  (options: object): Refusal[0] =>
  () =>
    relay(any({ db: memory, outbox, publisher, ...options }))
const add =
  (messages: unknown, options?: unknown): Refusal[0] =>
  () =>
    memory.transaction((tx) => outbox.add(tx, any(messages), any(options)))
const once =
  (...given: unknown[]): Refusal[0] =>
  () =>
    memory.transaction((tx) => (inbox.once as (...all: unknown[]) => Promise<unknown>)(tx, ...given))

const rows: Record<string, readonly Refusal[]> = {
  createOutbox: [
    [() => createOutbox(any(null)), 'TypeError: createOutbox: options must be an object, got null'],
    [
      () => createOutbox(any({ tables: 'x' })),
      'TypeError: createOutbox: tables is not an option; there are schema, table, partitions, notify, maxMessageBytes, reservedSuffixes, clock, store',
    ],
    [() => createOutbox(any({ schema: 7 })), 'TypeError: createOutbox: schema must be a string, got 7'],
    [() => createOutbox({ partitions: 3 }), 'RangeError: createOutbox: partitions must be a power of two up to 64, got 3'],
    [() => createOutbox(any({ partitions: '16' })), 'TypeError: createOutbox: partitions must be a power of two up to 64, got "16"'],
    [() => createOutbox(any({ notify: 'yes' })), 'TypeError: createOutbox: notify must be true or false, got "yes"'],
    [() => createOutbox({ maxMessageBytes: Number.NaN }), 'RangeError: createOutbox: maxMessageBytes must be an integer of at least 1, got NaN'],
    [
      () => createOutbox(any({ store: memory })),
      "TypeError: createOutbox: store must be an outbox's store, as memoryStore().outbox is, got { outbox, inbox, transaction, query }",
    ],
    [() => memoryStore(any({ partitions: 0 })), 'RangeError: memoryStore: partitions must be an integer of at least 1, got 0'],
    [bare(memory.transaction), 'TypeError: transaction: fn must be a function, got undefined'],
  ],
  add: [
    [bare(outbox.add), 'TypeError: The transaction must be an object with query(), got undefined'],
    [bare(outbox.publisher), 'TypeError: The transaction must be an object with query(), got undefined'],
    [add(undefined), 'TypeError: A message must be an object with topic, value, got undefined'],
    [add('hello'), 'TypeError: A message must be an object with topic, value, got "hello"'],
    [add([{ topic: 't', value }, null]), 'TypeError: A message must be an object with topic, value, got null'],
    [
      add({ topic: 't', value, keys: 'k' }),
      'TypeError: keys is not a part of a message; there are id, topic, key, value, headers, timestamp, deliverAt, dedupeId',
    ],
    [
      add({ topic: 't', value, delayMs: 5 }),
      'TypeError: delayMs is not a part of a message; there are id, topic, key, value, headers, timestamp, deliverAt, dedupeId',
    ],
    [
      () => memory.transaction((tx) => outbox.publisher(tx).publish(any({ topic: 't', value, keys: 'k' }))),
      'TypeError: keys is not a part of a message; there are id, topic, key, value, headers, timestamp, deliverAt, dedupeId',
    ],
    [
      add({ id: 'a', name: 'ran', version: 1, topic: 't', key: 'a', aggregateId: 'a', occurredAt: new Date(), data: {} }),
      'TypeError: value of message a must be a Uint8Array, got undefined; an event? Use outbox.publisher(tx), or add what toMessage(event) gives',
    ],
    [add({ topic: 't', value, headers: 'a: b' }), 'TypeError: headers must be an object, got "a: b"'],
    [add({ topic: 't', value, deliverAt: '5' }), 'TypeError: deliverAt must be ms since the epoch, got "5"'],
    [add({ topic: 't', value }, { delayMs: 5 }), 'TypeError: add: delayMs is not an option; there are key, deliverAt'],
    [add({ topic: 't', value }, { deliverAt: Number.NaN }), 'RangeError: add: deliverAt must be ms since the epoch, got NaN'],
    [add({ topic: 't', value }, { key: 7 }), 'TypeError: add: key must be a string, got 7'],
    [bare(outbox.counts), 'TypeError: counts: db must be an object with query(), got undefined'],
    [bare(outbox.parked), 'TypeError: parked: db must be an object with query(), got undefined'],
    [() => outbox.parked(memory).list({ limit: 0 }), 'RangeError: list: limit must be an integer of at least 1, got 0'],
    [() => outbox.parked(memory).release(any(1)), 'TypeError: release: ids must be an array, got 1'],
    [() => outbox.parked(memory).discard([1.5]), 'RangeError: discard: ids[0] must be an integer of at least 0, got 1.5'],
  ],
  relay: [
    [bare(relay), 'TypeError: relay: options must be an object with db, publisher, got undefined'],
    [moving({ db: undefined }), 'TypeError: relay: db must be an object with query(), got undefined'],
    [moving({ publisher: {} }), 'TypeError: relay: publisher must be an object with publish() or publishBatch(), got {}'],
    [
      moving({ outbox: createOutbox }),
      'TypeError: relay: outbox must be an object with add(), schema(), counts(), parked(), got the function createOutbox; is a call missing?',
    ],
    [moving({ onPark: 'blok' }), `RangeError: relay: onPark must be 'block-key' or 'skip-key', got "blok"`],
    [moving({ wake: 'pol' }), `RangeError: relay: wake must be 'poll' or 'poll+notify', got "pol"`],
    [moving({ batch: 0 }), 'RangeError: relay: batch must be an integer of at least 1, got 0'],
    [moving({ batch: 1.5 }), 'RangeError: relay: batch must be an integer of at least 1, got 1.5'],
    [moving({ pollMs: '100' }), 'TypeError: relay: pollMs must be a number from 1 to 2147483647, got "100"'],
    [moving({ leaseMs: Infinity }), 'RangeError: relay: leaseMs must be a number from 1 to 2147483647, got Infinity'],
    [moving({ maxAttempts: Number.NaN }), 'RangeError: relay: maxAttempts must be an integer of at least 1, or Infinity, got NaN'],
    [moving({ retry: { initialDelayMs: 5 } }), 'TypeError: relay: retry.initialDelayMs is not an option; there are initialMs, maxMs, multiplier'],
    [moving({ retry: { initialMs: 100, maxMs: 10 } }), 'RangeError: relay: retry.initialMs must be at most maxMs, which is 10, got 100'],
    [moving({ backoff: { initialMs: 100, maxMs: 10 } }), 'RangeError: relay: backoff.initialMs must be at most maxMs, which is 10, got 100'],
    [moving({ backoff: { multiplier: 0 } }), 'RangeError: relay: backoff.multiplier must be a number of at least 1, got 0'],
    [moving({ hooks: { onPark: work } }), 'TypeError: relay: hooks.onPark is not an option; there are onPublished, onParked, onError, onAlarm'],
    [moving({ groups: ['t'] }), 'TypeError: relay: groups must be an object of topics and their groups, got an array'],
    [moving({ groups: { t: 'g' } }), 'TypeError: relay: groups.t must be an array, got "g"'],
    [
      moving({ poll: 5 }),
      'TypeError: relay: poll is not an option; there are db, publisher, outbox, batch, pollMs, wake, listen, groups, leaseMs, publishTimeoutMs, maxAttempts, retry, backoff, onPark, alarmMs, hooks, clock, random',
    ],
  ],
  inbox: [
    [
      () => createInbox(any({ retention: 5 })),
      'TypeError: createInbox: retention is not an option; there are schema, table, retentionMs, clockSkewMs, allowOld, messageId, store',
    ],
    [() => createInbox({ retentionMs: -1 }), 'RangeError: createInbox: retentionMs must be a number of at least 1, got -1'],
    [() => createInbox({ clockSkewMs: Number.NaN }), 'RangeError: createInbox: clockSkewMs must be a number of at least 0, got NaN'],
    [
      () => createInbox(any({ store: memory.outbox })),
      'TypeError: createInbox: store must be an object with alive(), nested(), record(), sweep(), got { rows, leases, queue }',
    ],
    [bare(inbox.once), 'TypeError: The transaction must be an object with query(), got undefined'],
    [once(), 'TypeError: The message must be an object with id, or its id, got undefined'],
    [once('m'), 'TypeError: handler must be a string, got undefined'],
    [once('m', work), 'TypeError: handler must be a string, got the function work'],
    [once('m', 'h'), 'TypeError: fn must be a function, got undefined'],
    [once({}, 'h', work), "TypeError: The message's id must be a string, got undefined"],
    [bare(inbox.runner), 'TypeError: runner: transaction must be a function, got undefined'],
    [() => inbox.runner(memory.transaction, any({ checked: true })), 'TypeError: runner: checked is not an option; there are commitChecked'],
    [() => inbox.runner(memory.transaction).run(any(undefined), 'h', work), 'TypeError: The message must be an object with id, or its id, got undefined'],
    [() => inbox.middleware(memory.transaction, any(undefined)), 'TypeError: middleware: options must be an object with handler, got undefined'],
    [() => inbox.middleware(memory.transaction, any({ name: 'h' })), 'TypeError: middleware: name is not an option; there are handler'],
    [bare(inbox.cleanup), 'TypeError: cleanup: db must be an object with query(), got undefined'],
    [() => inbox.cleanup(memory, any({ signal: 5 })), 'TypeError: cleanup: signal must be an AbortSignal, got 5'],
  ],
}

describeRefusals(rows)
