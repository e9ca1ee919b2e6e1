import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deferred } from '#internal/abort'
import { z } from 'zod'
import { EventPublishError } from './errors.ts'
import { defineEvent } from './event.ts'
import type { OutgoingMessage } from './message.ts'
import { eventPublisher } from './publisher.ts'

const Created = defineEvent('created', { version: 1, schema: z.object({ id: z.string() }), topic: 'things', key: ({ id }) => id })
const batch = ['a', 'b', 'a', 'c'].map((id) => Created({ id }))

/** A publisher that keeps messages and the `this` that it was called with, as an instance of a class needs it. */
class Target {
  readonly sent: OutgoingMessage[] = []
  readonly signals: (AbortSignal | undefined)[] = []
  refuse: (message: OutgoingMessage) => boolean = () => false
  async publish(message: OutgoingMessage, options: { signal?: AbortSignal } = {}): Promise<void> {
    if (this.refuse(message)) throw Object.assign(new Error(`no room for ${message.key}`), { retryable: true })
    this.sent.push(message)
    this.signals.push(options.signal)
  }
}

test('publishes through anything that publishes messages; source, correlation and signal go along', async () => {
  const target = new Target()
  const publisher = eventPublisher(target, { source: '/api' })
  const { signal } = new AbortController()
  await publisher.publish(batch[0]!, { correlation: { tenantId: 'acme' }, signal })
  const [message] = target.sent
  assert.deepEqual([message!.id, message!.topic, message!.key], [batch[0]!.id, 'things', 'a'])
  assert.deepEqual([message!.headers!['ce_source'], message!.headers!['ce_tenantid']], ['/api', 'acme'])
  assert.deepEqual(target.signals, [signal])
})

test('the error of what lies below comes through', async () => {
  const target = new Target()
  target.refuse = () => true
  await assert.rejects(eventPublisher(target).publish(batch[0]!), /no room for a/)
})

test('a batch goes down as one where it can', async () => {
  const calls: OutgoingMessage[][] = []
  const publishBatch = async (messages: readonly OutgoingMessage[]) => (calls.push([...messages]), messages.map(() => ({ status: 'stored' as const })))
  await eventPublisher({ publish: () => assert.fail('singly'), publishBatch }).publishBatch(batch)
  assert.deepEqual(
    calls.map((messages) => messages.map(({ id }) => id)),
    [batch.map(({ id }) => id)],
  )
})

test('a batch that is not stored as a whole names what is missing', async () => {
  const error = Object.assign(new Error('refused'), { retryable: false })
  const publishBatch = async () => [
    { status: 'stored' as const },
    { status: 'rejected' as const, error },
    { status: 'unknown' as const, error: new Error('no answer') },
  ]
  await assert.rejects(eventPublisher({ publish: () => assert.fail(), publishBatch }).publishBatch(batch), (thrown: unknown) => {
    assert.ok(thrown instanceof EventPublishError)
    assert.deepEqual([thrown.code, thrown.retryable, thrown.message], ['ERR_EVENTS_PUBLISH', false, 'Cannot publish 3 of 4 events: refused'])
    assert.deepEqual(
      thrown.failures.map(({ index, id, status }) => [index, id, status]),
      [
        [1, batch[1]!.id, 'rejected'],
        [2, batch[2]!.id, 'unknown'],
        [3, batch[3]!.id, 'unknown'],
      ],
    )
    return true
  })
})

test('one by one: after an event of a key has failed its later ones are held back, others go on', async () => {
  const target = new Target()
  let refused = 0
  target.refuse = ({ key }) => key === 'a' && refused++ === 0
  await assert.rejects(eventPublisher(target).publishBatch(batch), (thrown: unknown) => {
    assert.ok(thrown instanceof EventPublishError)
    assert.equal(thrown.retryable, true)
    assert.deepEqual(
      thrown.failures.map(({ index, status }) => [index, status]),
      [
        [0, 'unknown'],
        [2, 'rejected'],
      ],
    )
    return true
  })
  assert.deepEqual(
    target.sent.map(({ key }) => key),
    ['b', 'c'],
  )
})

test('close waits for what is under way and refuses what comes later; twice is fine', async () => {
  const stored = deferred()
  const publisher = eventPublisher({ publish: () => stored.promise })
  const publishing = publisher.publish(batch[0]!)
  let closed = false
  const closing = Promise.all([publisher.close(), publisher.close()]).then(() => (closed = true))
  await assert.rejects(publisher.publish(batch[1]!), { code: 'ERR_EVENTS_CLOSED' })
  assert.equal(closed, false)
  stored.resolve()
  await publishing
  await closing
  await publisher[Symbol.asyncDispose]()
})
