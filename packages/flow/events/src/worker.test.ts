import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deferred } from '#internal/abort'
import { z } from 'zod'
import { defineEvent } from './event.ts'
import type { DeliveryContext, MessageSubscriber, ReceivedMessage, SubscribeOptions } from './message.ts'
import { createEventProcessor } from './processor.ts'
import { receivedMessage } from './testing.ts'
import { createWorker } from './worker.ts'

const Created = defineEvent('created', { version: 1, schema: z.object({ id: z.string() }), topic: 'things', key: ({ id }) => id })
const Moved = defineEvent('moved', { version: 1, schema: z.object({ id: z.string() }), topic: 'moves', key: ({ id }) => id })

interface Opened {
  topics: readonly string[]
  options: SubscribeOptions
  handler: (message: ReceivedMessage, ctx: DeliveryContext) => Promise<void>
  closed: boolean
}

function fakeSubscriber(opening: () => Promise<void> = async () => {}): MessageSubscriber & { opened: Opened[]; closing: Promise<void> } {
  const opened: Opened[] = []
  const subscriber = {
    opened,
    closing: Promise.resolve(),
    async subscribe(topics: readonly string[], options: SubscribeOptions, handler: Opened['handler']) {
      await opening()
      const one = { topics, options, handler, closed: false }
      opened.push(one)
      return {
        close: async () => {
          await subscriber.closing
          one.closed = true
        },
      }
    },
  }
  return subscriber
}

test('routes messages by event name, with one attempt of the subscription', async () => {
  const seen: string[] = []
  const processor = createEventProcessor()
    .on(Created, ({ data }) => void seen.push(`created ${data.id}`), { name: 'h' })
    .on(Moved, ({ data }) => void seen.push(`moved ${data.id}`), { name: 'h' })
  const subscriber = fakeSubscriber()
  const worker = createWorker({ subscriber, processor, group: 'stats', concurrency: 16, subscription: { drainMs: 5 } })
  await worker.start()
  const [subscription] = subscriber.opened
  assert.deepEqual(subscription!.topics, ['things', 'moves'])
  assert.deepEqual(subscription!.options, { group: 'stats', concurrency: 16, retry: { maxAttempts: 1 }, drainMs: 5 })
  await subscription!.handler(receivedMessage(Moved({ id: 'a' })), {})
  await subscription!.handler(receivedMessage(Created({ id: 'b' })), {})
  assert.deepEqual(seen, ['moved a', 'created b'])
  await worker.stop()
})

test('start and stop: twice is fine, stop drains, a stopped worker starts again after the drain', async () => {
  const subscriber = fakeSubscriber()
  const drained = deferred()
  subscriber.closing = drained.promise
  const worker = createWorker({ subscriber, processor: createEventProcessor(), topics: ['t'], group: 'g' })
  assert.equal(worker.running, false)
  await worker.stop()
  await Promise.all([worker.start(), worker.start()])
  assert.deepEqual([worker.running, subscriber.opened.length], [true, 1])
  const stopping = Promise.all([worker.stop(), worker.close()])
  const restarting = worker.start()
  await new Promise((resolve) => void setImmediate(resolve))
  assert.equal(subscriber.opened.length, 1)
  drained.resolve()
  await stopping
  assert.equal(subscriber.opened[0]!.closed, true)
  await restarting
  assert.equal(subscriber.opened.length, 2)
  await worker[Symbol.asyncDispose]()
  assert.equal(subscriber.opened[1]!.closed, true)
})

test('a start that fails may be tried again; stop during a start closes what it opened', async () => {
  let fail = true
  const subscriber = fakeSubscriber(async () => {
    if (fail) throw new Error('no broker')
  })
  const worker = createWorker({ subscriber, processor: createEventProcessor(), topics: ['t'], group: 'g' })
  await assert.rejects(worker.start(), /no broker/)
  assert.equal(worker.running, false)
  fail = false
  const starting = worker.start()
  await worker.stop()
  await starting
  assert.deepEqual([subscriber.opened.length, subscriber.opened[0]!.closed, worker.running], [1, true, false])
})

test('a worker without topics says so', async () => {
  await assert.rejects(
    createWorker({ subscriber: fakeSubscriber(), processor: createEventProcessor(), group: 'g' }).start(),
    /TypeError: The worker has no topics/,
  )
})
