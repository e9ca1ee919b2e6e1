import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '#internal/clock'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { type Broker, createBroker } from './broker.ts'
import type { HandlerContext } from './job.ts'
import { memoryDriver } from './memory.ts'
import type { Message } from './message.ts'
import { createPuller, type Puller } from './pull.ts'
import type { Handler } from './runner.ts'

/** A puller, and what hands it a message as its subscription would. */
async function pulling(): Promise<{ broker: Broker; puller: Puller<unknown>; deliver: Handler }> {
  const broker = createBroker(memoryDriver())
  const subscription = await broker.subscribe('t', {}, () => undefined)
  let deliver!: Handler
  const puller = await createPuller(systemClock, async (handler) => {
    deliver = handler
    return subscription
  })
  return { broker, puller, deliver }
}

test('who gives up in the moment in which a message comes leaves it to the next call', async () => {
  const { broker, puller, deliver } = await pulling()
  const stop = new AbortController()
  const leaving = puller.next(1, { waitMs: 60_000, signal: stop.signal })
  const handled = deliver({ id: 'a' } as Message, { signal: new AbortController().signal } as HandlerContext)
  stop.abort(new Error('enough'))
  await assert.rejects(leaving, /enough/)
  const [pulled] = await puller.next(1, { waitMs: 0 })
  assert.equal(pulled!.message.id, 'a')
  pulled!.ack()
  await handled
  await puller.close()
  await broker.close()
})

test('what was taken away while nobody had pulled it is given to nobody', async () => {
  const { broker, puller, deliver } = await pulling()
  const lost = new AbortController()
  const taken = deliver({ id: 'a' } as Message, { signal: lost.signal } as HandlerContext)
  const handled = deliver({ id: 'b' } as Message, { signal: new AbortController().signal } as HandlerContext)
  lost.abort(new Error('lost'))
  await assert.rejects(taken as Promise<void>, /lost/)
  const pulled = await puller.next(2, { waitMs: 0 })
  assert.deepEqual(
    pulled.map(({ message }) => message.id),
    ['b'],
  )
  pulled[0]!.ack()
  await handled
  await puller.close()
  await broker.close()
})

test('what nobody pulled goes back at once when the puller closes, and counts as no run', async () => {
  const broker = createBroker(memoryDriver())
  const puller = await broker.pull('t', { group: 'g', drainMs: 60_000 })
  for (const id of ['a', 'b', 'c']) await broker.publish({ topic: 't', value: new Uint8Array(), id, key: 'k' + id })
  await waitUntil(() => broker.stats().running === 3)
  const [first] = await puller.next(1)
  first!.ack()
  await puller.close()
  assert.equal(broker.stats().failed, 0)
  const seen: [string, number][] = []
  await broker.subscribe('t', { group: 'g' }, ({ id, attempt }) => void seen.push([id, attempt]))
  await waitUntil(() => seen.length === 2)
  assert.deepEqual(new Map(seen), new Map(['a', 'b', 'c'].filter((id) => id !== first!.message.id).map((id) => [id, 1])))
  await broker.close()
})
