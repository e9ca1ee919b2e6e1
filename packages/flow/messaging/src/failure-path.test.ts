// What goes wrong while something has gone wrong already: none of it may end the process, lose a message or stop a subscription.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deferred } from '#internal/abort'
import { waitUntil } from '../../../../tests/kit/wait-until.ts'
import { type Broker, createBroker } from './broker.ts'
import { failPublish } from './faults.ts'
import { memoryDriver } from './memory.ts'
import type { RetryOptions } from './retry.ts'
import type { Handler } from './runner.ts'

const value = Buffer.from('x')

/** Two messages through a handler that fails the first; gives the dead letters when both are dealt with. */
async function afterFailure(handler: Handler, retry: RetryOptions): Promise<{ codes: string[]; acked: number }> {
  const broker = createBroker(memoryDriver())
  await broker.subscribe('t', { group: 'g', retry }, handler)
  for (const id of ['bad', 'good']) await broker.publish({ topic: 't', key: 'k', value, id })
  await waitUntil(async () => (await broker.lag('t', 'g')).messages === 0)
  const codes = (await broker.deadLetters('t', 'g').list()).letters.map((letter) => letter.error.code)
  const { acked } = broker.stats()
  await broker.close()
  return { codes, acked }
}

test('a predicate that throws has not said no, whether the handler fails at once or later', async () => {
  const retry: RetryOptions = {
    maxAttempts: 2,
    initialDelayMs: 1,
    isRetryable: () => {
      throw new Error('no such field')
    },
  }
  const sync = await afterFailure((message) => {
    if (message.id === 'bad') throw new RangeError('bad')
  }, retry)
  assert.deepEqual(sync, { codes: ['RangeError'], acked: 1 })
  const later = await afterFailure(async (message) => {
    if (message.id === 'bad') throw new RangeError('bad')
  }, retry)
  assert.deepEqual(later, { codes: ['RangeError'], acked: 1 })
})

test('a hook that throws what has no text of its own ends neither the subscription nor the process', async () => {
  const mute = Object.assign(new Error('mute'), {
    toString: () => {
      throw new Error('no')
    },
  })
  const thrown = [Object.create(null), mute, Symbol('s')]
  let n = 0
  const hook = (): never => {
    throw thrown[n++ % thrown.length]
  }
  const broker = createBroker(memoryDriver(), { hooks: { onPublish: hook, onDelivery: hook, onSettled: hook, onError: hook } })
  const done: string[] = []
  await broker.subscribe('t', { group: 'g', retry: { initialDelayMs: 1 } }, ({ id, attempt }) => {
    if (attempt === 1) throw thrown[n % thrown.length]
    done.push(id)
  })
  for (const id of ['a', 'b', 'c']) await broker.publish({ topic: 't', key: 'k', value, id })
  await waitUntil(async () => (await broker.lag('t', 'g')).messages === 0)
  assert.deepEqual(done, ['a', 'b', 'c'])
  await broker.close()
})

test('a predicate that gives a promise has said nothing, and is warned of; what it rejects with ends nothing', async () => {
  const warned = new Promise<string>((resolve) => process.on('warning', ({ message }) => message.startsWith('retry.isRetryable') && resolve(message)))
  const retry: RetryOptions = { maxAttempts: 2, initialDelayMs: 1, isRetryable: (() => Promise.reject(new Error('no such field'))) as never }
  let runs = 0
  const seen = await afterFailure((message) => {
    if (message.id !== 'bad') return
    runs++
    throw new RangeError('bad')
  }, retry)
  assert.deepEqual([seen, runs], [{ codes: ['RangeError'], acked: 1 }, 2])
  assert.equal(await warned, 'retry.isRetryable threw: TypeError: retry.isRetryable must give true or false, got a promise')
})

test('headers that no message can carry fail the run that gave them, not the process', async () => {
  const seen = await afterFailure(
    (message, context) => {
      if (message.id === 'bad') context.deadLetter('bad', { headers: { why: 'line 1\nline 2' } })
    },
    { maxAttempts: 1 },
  )
  assert.deepEqual(seen, { codes: ['RangeError'], acked: 1 })
})

test('an error of any shape has a diagnosis', async () => {
  const odd = Object.assign(new Error('x'), { message: { detail: 1 }, code: { deep: true }, stack: 7, name: Symbol('n') })
  const seen = await afterFailure(
    (message) => {
      if (message.id === 'bad') throw odd
    },
    { maxAttempts: 1 },
  )
  assert.equal(seen.codes.length, 1)
  assert.equal(seen.acked, 1)
})

test('the timeout of a publish is kept, also when one with a longer one is under way', async () => {
  const stuck: Broker = createBroker({ ...memoryDriver(), publish: () => new Promise(() => undefined) })
  await stuck.createTopic('t')
  // The deadlines alone do not keep a process alive; a real driver's connection does.
  const connection = setInterval(() => undefined, 1_000)
  void stuck.publish({ topic: 't', value }, { timeoutMs: 3_600_000 }).catch(() => undefined)
  await assert.rejects(stuck.publish({ topic: 't', value }, { timeoutMs: 50 }), { code: 'ERR_MESSAGING_PUBLISH_UNKNOWN' })
  clearInterval(connection)
})

test('a dead-letter topic that was deleted is made again as it was', async () => {
  const driver = memoryDriver()
  const broker = createBroker(driver)
  await broker.subscribe('t', { group: 'g', retry: { maxAttempts: 1 } }, () => {
    throw new Error('always')
  })
  await broker.publish({ topic: 't', value })
  await waitUntil(() => broker.stats().deadLettered === 1)
  await driver.admin.deleteTopic('t.g.dlq')
  for (let i = 0; i < 8; i++) await broker.publish({ topic: 't', key: `k${i}`, value })
  await waitUntil(() => broker.stats().deadLettered === 9)
  assert.deepEqual((await driver.admin.topics('t.g.dlq'))[0]!.spec, { partitions: 1, keep: true, maxAgeMs: undefined })
  assert.equal(await broker.deadLetters('t', 'g').count(), 8)
  await broker.close()
})

test('a broker that stores no dead letter keeps the message', async () => {
  let down = true
  const driver = memoryDriver()
  const refusing = failPublish(driver, { when: ({ topic }) => down && topic.endsWith('.dlq') })
  const broker = createBroker(refusing)
  let errors = 0
  await broker.subscribe(
    't',
    { group: 'g', retry: { maxAttempts: 1 }, middleware: [(next) => (message, context) => ((errors += 1), next(message, context))] },
    () => {
      throw new Error('always')
    },
  )
  await broker.publish({ topic: 't', value })
  await waitUntil(() => errors === 1)
  assert.equal((await broker.lag('t', 'g')).messages, 1)
  down = false
  await waitUntil(async () => (await broker.lag('t', 'g')).messages === 0)
  assert.equal(await broker.deadLetters('t', 'g').count(), 1)
  await broker.close()
})

test('a replay that gets no answer sends nothing more, and says of every letter that it may be tried again', async () => {
  const driver = memoryDriver()
  let sent = 0
  let answering = true
  const broker = createBroker({
    ...driver,
    publish: (messages, options) => {
      if (answering) return driver.publish(messages, options)
      sent += messages.length
      return Promise.resolve(messages.map(() => ({ status: 'unknown' as const, error: new Error('no answer') })))
    },
  })
  await broker.subscribe('t', { group: 'g', retry: { maxAttempts: 1 } }, () => {
    throw new Error('bad')
  })
  for (let i = 0; i < 5; i++) await broker.publish({ topic: 't', value })
  const letters = broker.deadLetters('t', 'g')
  await waitUntil(async () => (await letters.count()) === 5)
  answering = false
  const outcomes = await letters.replay({ filter: () => true })
  assert.deepEqual(
    outcomes.map(({ outcome }) => outcome),
    ['failed', 'failed', 'failed', 'failed', 'failed'],
  )
  assert.equal(sent, 1)
  assert.equal(await letters.count(), 5)
  await broker.close()
})

test('a replay that fails is retried, though its failures count from one again; after a reset too', async () => {
  const broker = createBroker(memoryDriver())
  await broker.createTopic('t', { partitions: 1, groups: ['g'] })
  const ids = ['m0', 'm1', 'm2']
  for (const id of ids) await broker.publish({ topic: 't', key: 'k', value, id })
  const runs: string[] = []
  const read = () =>
    broker.subscribe('t', { group: 'g', order: 'none', retry: { maxAttempts: 3, initialDelayMs: 1, maxDelayMs: 1 } }, ({ id }) => {
      runs.push(id)
      if (id === 'm2') throw new Error('bad')
    })
  const letters = broker.deadLetters('t', 'g')
  const failures = (): number => runs.filter((id) => id === 'm2').length
  let subscription = await read()
  await waitUntil(async () => (await letters.count()) === 1)
  assert.equal(failures(), 3)
  // The letter's copy in the private source now stands where the message first stood in the topic.
  await letters.replay({ filter: () => true })
  await waitUntil(async () => (await letters.count()) === 1)
  assert.equal(failures(), 6)
  await subscription.close()
  await broker.resetGroup('t', 'g', { to: 'earliest' })
  subscription = await read()
  await waitUntil(async () => (await letters.count()) === 2)
  assert.equal(failures(), 9)
  await broker.close()
})

test('who was told that its message is not stored has no message stored, though its topic comes back', async () => {
  const driver = memoryDriver()
  const gate = deferred()
  let slow = false
  const broker = createBroker({
    ...driver,
    admin: {
      ...driver.admin,
      createTopic: async (...args) => {
        if (slow) await gate.promise
        return driver.admin.createTopic(...args)
      },
    },
  })
  await broker.publish({ topic: 't', value })
  await driver.admin.deleteTopic('t')
  slow = true
  await assert.rejects(broker.publish({ topic: 't', value, id: 'late' }, { timeoutMs: 30 }), { code: /^ERR_MESSAGING_PUBLISH/ })
  gate.resolve()
  await waitUntil(async () => (await broker.listTopics()).length === 1)
  await broker.publish({ topic: 't', value, id: 'next' })
  const stored = await Promise.all([0, 1, 2, 3].map((partition) => broker.peek('t', { partition })))
  assert.deepEqual(
    stored.flat().map(({ id }) => id),
    ['next'],
  )
  await broker.close()
})
