import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createBroker } from './broker.ts'
import { MessagingError } from './errors.ts'
import { memoryDriver } from './memory.ts'
import { message } from './message.ts'
import { cuttable, duplicate, failPublish, reorder, seededRandom, spyPublisher, virtualClock } from './testing.ts'

const input = (i: number, key = 'k') => ({ topic: 't', id: String(i), key, value: new TextEncoder().encode(String(i)) })
const inputs = Array.from({ length: 50 }, (_, i) => input(i))

/** What a group gets of fifty messages that are published in one batch through `wrap`. */
async function received(wrap: (driver: ReturnType<typeof memoryDriver>) => ReturnType<typeof duplicate>): Promise<{ ids: string[]; statuses: string[] }> {
  const clock = virtualClock()
  const broker = createBroker(wrap(memoryDriver({ clock })), { clock })
  const results = await broker.publishBatch(inputs)
  const ids: string[] = []
  await broker.subscribe('t', { group: 'g' }, ({ id }) => void ids.push(id))
  await clock.advance(1_000)
  await clock.run(() => broker.close())
  assert.deepEqual(
    results.map(({ id }) => id),
    inputs.map(({ id }) => id),
  )
  return { ids, statuses: results.map(({ status }) => status) }
}

test('a spy keeps what is published and finds it by any of its fields', async () => {
  const spy = spyPublisher()
  const register = async (publisher: Pick<typeof spy, 'publish'>): Promise<void> => {
    await publisher.publish(
      message()
        .topic('user-events')
        .key('u1')
        .json({ name: 'Ada', address: { city: 'London', zip: '1' } })
        .header('event_type', 'user.created')
        .build(),
    )
  }
  await register(spy)
  const found = spy.expectPublished({ topic: 'user-events', key: 'u1', headers: { event_type: 'user.created' }, body: { address: { city: 'London' } } })
  assert.match(found.id, /^[0-9a-f-]{36}$/)
  assert.equal(spy.find({ key: 'u2' }).length, 0)
  assert.throws(() => spy.expectPublished({ body: { name: 'Bob' } }), /Expected \{ body: \{ name: 'Bob' \} \}; published: .*Ada/s)
  assert.throws(() => spy.expectNothing(), /Expected nothing; published/)
  spy.expectNothing({ topic: 'other' })
  spy.clear()
  spy.expectNothing()
})

test('a spy keeps copies, gives an answer for each of a batch, and fails when told', async () => {
  const spy = spyPublisher()
  const value = new TextEncoder().encode('first')
  await spy.publish({ topic: 't', value })
  value.fill(0)
  spy.expectPublished({ body: 'first' })
  const failure = new MessagingError('ERR_MESSAGING_PUBLISH_UNKNOWN', 'who knows', { retryable: true })
  spy.failNext(failure)
  await assert.rejects(spy.publish(input(1)), failure)
  spy.failNext(new Error('no'))
  const results = await spy.publishBatch([input(2), input(3)])
  assert.deepEqual(
    results.map(({ id, status }) => `${id} ${status}`),
    ['2 rejected', '3 stored'],
  )
  await assert.rejects(spy.publish(input(4), { signal: AbortSignal.abort(new Error('enough')) }), { message: 'enough' })
  assert.deepEqual(
    spy.published.slice(1).map(({ id }) => id),
    ['3'],
  )
})

test('a seed gives the same numbers again', () => {
  const [a, b, c] = [seededRandom(7), seededRandom(7), seededRandom(8)]
  const ten = (random: () => number): number[] => Array.from({ length: 10 }, random)
  const first = ten(a)
  assert.deepEqual(first, ten(b))
  assert.notDeepEqual(first, ten(c))
  assert.ok(first.every((x) => x >= 0 && x < 1))
})

test('duplicate stores some messages twice, under the same id, and loses none', async () => {
  const { ids, statuses } = await received((driver) => duplicate(driver, { rate: 0.3 }))
  assert.ok(statuses.every((status) => status === 'stored'))
  assert.ok(ids.length > 55 && ids.length < 75, String(ids.length))
  assert.deepEqual(
    [...new Set(ids)],
    inputs.map(({ id }) => id),
  )
})

test('reorder swaps some neighbours and loses none; each answer is still that of its message', async () => {
  const { ids } = await received((driver) => reorder(driver, { rate: 0.3 }))
  const sent = inputs.map(({ id }) => id)
  assert.notDeepEqual(ids, sent)
  assert.deepEqual([...ids].sort(), [...sent].sort())
})

test('failPublish refuses what it is told, and what stands behind it in its key', async () => {
  const { ids, statuses } = await received((driver) => failPublish(driver, { when: ({ id }) => id === '20' }))
  assert.deepEqual(
    ids,
    inputs.slice(0, 20).map(({ id }) => id),
  )
  assert.deepEqual(new Set(statuses.slice(20)), new Set(['rejected']))
})

test("failPublish with status 'unknown' stores, and no answer comes", async () => {
  const { ids, statuses } = await received((driver) => failPublish(driver, { rate: 1, status: 'unknown' }))
  assert.equal(ids.length, 50)
  assert.deepEqual(new Set(statuses), new Set(['unknown']))
})

test('a rate outside of [0, 1] is a RangeError', () => {
  for (const rate of [-0.1, 1.1, Number.NaN])
    for (const fault of [duplicate, reorder, failPublish]) assert.throws(() => fault(memoryDriver(), { rate }), RangeError)
})

test('while a connection is cut nothing goes through and health is down; mended, everything goes on and nothing is lost', async () => {
  const clock = virtualClock()
  const store = memoryDriver({ clock }).store
  const line = cuttable(memoryDriver({ store }))
  const broker = createBroker(line, { clock })
  const other = createBroker(memoryDriver({ store }), { clock })
  const ids: string[] = []
  await broker.subscribe('t', { group: 'g', flushMs: 10 }, ({ id }) => void ids.push(id))
  await broker.publish(input(0))
  await clock.advance(100)
  line.cut()
  assert.equal((await broker.health()).status, 'down')
  await assert.rejects(broker.publish(input(1)), { code: 'ERR_MESSAGING_PUBLISH_UNKNOWN' })
  for (let i = 2; i < 5; i++) await other.publish(input(i))
  await clock.advance(500)
  assert.deepEqual(ids, ['0'])
  line.mend()
  await clock.advance(10_000)
  assert.deepEqual(ids, ['0', '2', '3', '4'])
  assert.equal((await other.lag('t', 'g')).messages, 0)
  await clock.run(() => Promise.all([broker.close(), other.close()]))
})
