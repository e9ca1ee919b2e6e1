import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '#internal/clock'
import { createBroker } from './broker.ts'
import type { HandlerContext } from './job.ts'
import { memoryDriver } from './memory.ts'
import type { Message } from './message.ts'
import { createPuller } from './pull.ts'
import type { Handler } from './runner.ts'

test('who gives up in the moment in which a message comes leaves it to the next call', async () => {
  const broker = createBroker(memoryDriver())
  const subscription = await broker.subscribe('t', {}, () => undefined)
  let deliver: Handler | undefined
  const puller = await createPuller(systemClock, async (handler) => {
    deliver = handler
    return subscription
  })
  const stop = new AbortController()
  const leaving = puller.next(1, { waitMs: 60_000, signal: stop.signal })
  const handled = deliver!({ id: 'a' } as Message, { signal: new AbortController().signal } as HandlerContext)
  stop.abort(new Error('enough'))
  await assert.rejects(leaving, /enough/)
  const [pulled] = await puller.next(1, { waitMs: 0 })
  assert.equal(pulled!.message.id, 'a')
  pulled!.ack()
  await handled
  await puller.close()
  await broker.close()
})
