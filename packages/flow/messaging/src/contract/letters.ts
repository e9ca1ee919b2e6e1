import assert from 'node:assert/strict'
import type { DeadLetter } from '../letter.ts'
import { MessagingError } from '../errors.ts'
import { failPublish } from '../faults.ts'
import { needs } from './needs.ts'
import { bytes, type Definition, keyed, once, quick, range, textOf } from './stage.ts'

/** What becomes of a message that fails for good. */
export const letterCases: readonly Definition[] = [
  {
    name: 'after maxAttempts there is exactly one dead letter, with the message as it was and everything about why',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const value = Uint8Array.from(range(256))
      const headers = { event_type: 'ü', 'content-type': 'x' }
      const before = stage.clock.now()
      await stage.publish(broker, [{ topic, key: 'k ü', value, headers, id: 'the id', timestamp: 1_700_000_000_123 }])
      let context: { partition: number; position: string } | undefined
      const { runs } = await stage.listen(broker, topic, { group: 'g', retry: quick }, (_message, { partition, position }) => {
        context = { partition, position }
        throw Object.assign(new RangeError('broken\nin two lines'), { code: 'ERR_BROKEN' })
      })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(runs.length, 3)
      const dead = broker.deadLetters(topic, 'g')
      const { letters, next } = await dead.list()
      assert.equal(letters.length, 1)
      assert.equal(await dead.count(), 1)
      const [letter] = letters
      assert.deepEqual([...letter!.value], range(256))
      assert.deepEqual({ ...letter!.headers }, headers)
      assert.deepEqual(
        [letter!.id, letter!.key, letter!.timestamp, letter!.tombstone, letter!.group, letter!.attempts, letter!.replays],
        ['the id', 'k ü', 1_700_000_000_123, false, 'g', 3, 0],
      )
      assert.deepEqual(letter!.origin, { topic, ...context })
      assert.equal(letter!.error.code, 'ERR_BROKEN')
      assert.match(letter!.error.message, /^broken \| in two lines$/)
      assert.match(letter!.error.stack, /RangeError/)
      assert.ok(before - 2 <= letter!.firstFailureAt && letter!.firstFailureAt <= letter!.lastFailureAt && letter!.lastFailureAt <= stage.clock.now() + 2)
      assert.deepEqual(await dead.get(letter!.letterId), letter)
      assert.equal(await dead.get('nobody'), undefined)
      assert.equal(next, undefined)
      assert.equal(await broker.deadLetters(topic, 'other').count(), 0)
    },
  },
  {
    name: 'an error that is not retryable is a dead letter after its first run: by its own word, by isRetryable, by ctx.deadLetter',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 4, 4))
      const retry = { ...quick, isRetryable: (error: unknown) => !(error instanceof SyntaxError) }
      const { runs } = await stage.listen(broker, topic, { group: 'g', retry }, ({ key }, context) => {
        if (key === 'key-0') throw Object.assign(new Error('final'), { retryable: false })
        if (key === 'key-1') throw new SyntaxError('hopeless')
        if (key === 'key-2') context.deadLetter('not for us', { error: new RangeError('why'), headers: { verdict: 'bad' } })
        if (key === 'key-3') throw new Error('again and again')
      })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(runs.length, 3 + 3)
      const { letters } = await broker.deadLetters(topic, 'g').list()
      const of = (key: string): DeadLetter => letters.find((letter) => letter.key === key)!
      assert.equal(letters.length, 4)
      assert.deepEqual(
        range(4).map((i) => of(`key-${i}`).attempts),
        [1, 1, 1, 3],
      )
      assert.deepEqual([of('key-2').error.message, of('key-2').error.code, of('key-2').headers['verdict']], ['not for us', 'RangeError', 'bad'])
    },
  },
  {
    name: 'while the dead letter cannot be stored, the message stays with its group',
    run: async (stage) => {
      let refuse = true
      const { broker } = await stage.client({}, (driver) => failPublish(driver, { when: ({ topic }) => refuse && topic.endsWith('.dlq') }))
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 2, 1))
      const { runs } = await stage.listen(broker, topic, { group: 'g', retry: once }, (message) => {
        if (textOf(message) === '0') throw new Error('always')
      })
      await stage.until(() => runs.length === 1, 'the handler')
      await stage.clock.sleep(60)
      assert.equal((await broker.lag(topic, 'g')).messages, 2)
      assert.equal(runs.length, 1, 'no further run, and the key waits')
      refuse = false
      await stage.untilRead(broker, topic, 'g')
      assert.equal(await broker.deadLetters(topic, 'g').count(), 1)
      assert.deepEqual(
        runs.map(({ text }) => text),
        ['0', '1'],
      )
    },
  },
  {
    name: 'a crash between the dead letter and its acknowledgement makes two copies, which are shown once',
    needs: needs.sever,
    leases: true,
    run: async (stage) => {
      let settling = true
      const client = await stage.client({}, (driver) => ({
        ...driver,
        consume: async (...args) => {
          const consumption = await driver.consume(...args)
          return { ...consumption, settle: (progress) => (settling ? consumption.settle(progress) : Promise.reject(new Error('the connection is gone'))) }
        },
      }))
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, key: 'k', value: bytes('x') })
      settling = false
      const fail = (): never => {
        throw new Error('always')
      }
      await stage.listen(client.broker, topic, { group: 'g', retry: once, flushMs: 5 }, fail)
      const dead = broker.deadLetters(topic, 'g')
      await stage.until(async () => (await dead.count()) === 1, 'the first copy')
      await stage.sever(client)
      await stage.listen(broker, topic, { group: 'g', retry: once }, fail)
      await stage.untilRead(broker, topic, 'g')
      const { letters } = await dead.list()
      assert.equal(letters.length, 1)
      assert.equal(await dead.count(), 1)
      assert.deepEqual(await dead.discard({ ids: [letters[0]!.letterId] }), [letters[0]!.letterId])
      assert.equal(await dead.count(), 0)
    },
  },
  {
    name: 'deadLetter: false drops what fails for good, and tells',
    run: async (stage) => {
      const told: unknown[] = []
      const broker = await stage.broker({
        hooks: { onError: ({ error }) => void told.push(error), onSettled: ({ outcome }) => void told.push(outcome) },
      })
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, value: bytes('') })
      const failure = new Error('no')
      await stage.listen(broker, topic, { group: 'g', deadLetter: false, retry: once }, () => {
        throw failure
      })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(told, [failure, 'dropped'])
      assert.equal(broker.stats().dropped, 1)
      assert.equal(await broker.deadLetters(topic, 'g').count(), 0)
    },
  },
  {
    name: 'a diagnosis of any size and sort is cut to fit, the message at the limit never',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const limit = Math.min(1_000_000, stage.capabilities.maxMessageBytes - 16_384)
      const value = new Uint8Array(limit - 40).fill(7)
      await broker.publish({ topic, value, headers: { a: 'ü'.repeat(10) } })
      const error = new MessagingError('ERR_MESSAGING_REJECTED', `\0\uD800${'ü\n'.repeat(100_000)}`, { retryable: false })
      error.stack = `at ${'\n  at somewhere (😀)'.repeat(50_000)}`
      await stage.listen(broker, topic, { group: 'g' }, () => {
        throw error
      })
      const dead = broker.deadLetters(topic, 'g')
      await stage.until(async () => (await dead.count()) === 1, 'the letter')
      const [letter] = (await dead.list()).letters
      assert.ok(Buffer.from(letter!.value).equals(value))
      assert.equal(letter!.headers['a'], 'ü'.repeat(10))
      const { code, message, stack } = letter!.error
      assert.equal(code, 'ERR_MESSAGING_REJECTED')
      assert.ok(Buffer.byteLength(code + message + stack) <= 8_192)
      assert.match(message, /ü \| ü/)
      assert.ok(message.isWellFormed() && stack.isWellFormed())
    },
  },
  {
    name: 'a tombstone and a binary body reach their dead letters as they are',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(broker, [
        { topic, key: 'k', value: bytes(''), tombstone: true },
        { topic, key: 'k', value: Uint8Array.from([0xff, 0, 0xfe]) },
      ])
      let healed = false
      const seen: [boolean, number[]][] = []
      await stage.listen(broker, topic, { group: 'g', retry: once }, ({ tombstone, value }) => {
        if (!healed) throw new Error('no')
        seen.push([tombstone, [...value]])
      })
      await stage.untilRead(broker, topic, 'g')
      const dead = broker.deadLetters(topic, 'g')
      const expected = [
        [true, []],
        [false, [0xff, 0, 0xfe]],
      ]
      assert.deepEqual(
        (await dead.list()).letters.map(({ tombstone, value }) => [tombstone, [...value]]),
        expected,
      )
      healed = true
      await dead.replay({ filter: () => true })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(seen, expected)
    },
  },
  {
    name: 'a log is read in pages of so many messages and bytes at most, but never of none while there is one',
    run: async (stage) => {
      const { broker, driver } = await stage.client()
      const topic = stage.topic()
      await driver.admin.createTopic(topic, { partitions: 1, keep: true, maxAgeMs: undefined })
      const sizes = [100, 100, 5_000, 900, 900, 900, 100, 0, 0, 0]
      await stage.publish(
        broker,
        sizes.map((size, i) => ({ topic, key: 'k', id: String(i), value: new Uint8Array(size).fill(i) })),
      )
      const seen: string[] = []
      for (let after: string | undefined; ;) {
        const page = await driver.log.read(topic, 0, after, 3, 2_000)
        if (page.length === 0) break
        assert.ok(page.length <= 3)
        const bodies = page.reduce((sum, { message }) => sum + message.value.length, 0)
        assert.ok(page.length === 1 || bodies <= 2_000, `${page.length} messages of ${bodies} bytes`)
        seen.push(...page.map(({ message }) => message.id))
        after = page.at(-1)!.position
      }
      assert.deepEqual(
        seen,
        sizes.map((_, i) => String(i)),
      )
    },
  },
  {
    name: 'a mark speaks of the latest position given for its letter, whoever comes later with an earlier one',
    run: async (stage) => {
      const { broker, driver } = await stage.client()
      const topic = stage.topic()
      await driver.admin.createTopic(topic, { partitions: 1, keep: true, maxAgeMs: undefined })
      await stage.publish(
        broker,
        range(10).map((i) => ({ topic, key: 'k', value: bytes(String(i)) })),
      )
      const positions = (await driver.log.read(topic, 0, undefined, 100, 1_000_000)).map(({ position }) => position)
      const early = { letterId: 'x', position: positions[1]!, mark: 'replayed' as const }
      const late = { ...early, position: positions[9]! }
      const marked = async (): Promise<unknown> => [...(await driver.log.marks(topic))].map(([letterId, mark]) => ({ letterId, ...mark }))
      await driver.log.mark(topic, [late, early])
      assert.deepEqual(await marked(), [late])
      await driver.log.mark(topic, [early])
      assert.deepEqual(await marked(), [late])
      await driver.log.mark(topic, [{ ...early, mark: 'discarded' }])
      assert.deepEqual((await driver.log.marks(topic)).get('x')?.position, late.position, 'an earlier copy that is discarded leaves it as well')
    },
  },
  {
    name: 'the suffix of dead letters is what the broker was told',
    run: async (stage) => {
      const broker = await stage.broker({ deadLetterSuffix: '.dead' })
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, value: bytes('') })
      await stage.listen(broker, topic, { group: 'g', retry: once }, () => {
        throw new Error('no')
      })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(await broker.deadLetters(topic, 'g').count(), 1)
      await assert.rejects(broker.publish({ topic: `${topic}.g.dead`, value: bytes('') }), RangeError)
      const usual = await stage.broker()
      assert.equal(await usual.deadLetters(topic, 'g').count(), 0)
      await broker.deleteTopic(topic)
    },
  },
]
