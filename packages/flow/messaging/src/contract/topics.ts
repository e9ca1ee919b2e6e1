import assert from 'node:assert/strict'
import { needs } from './needs.ts'
import { assertKeyOrder, bytes, type Definition, keyed, quick, range, textOf } from './stage.ts'

/** Topics and groups as things that are made, asked, moved and deleted. */
export const topicCases: readonly Definition[] = [
  {
    name: 'a group that is made before its consumers misses nothing',
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 20, 5))
      assert.equal((await other.lag(topic, 'g')).messages, 20)
      await broker.close()
      const { done } = await stage.listen(other, topic, { group: 'g' })
      await stage.untilRead(other, topic, 'g')
      assert.equal(done.length, 20)
    },
  },
  {
    name: 'twenty topics side by side do not mix',
    run: async (stage) => {
      const broker = await stage.broker()
      const topics = range(20).map((i) => stage.topic(`t${i}`))
      const each = Math.max(5, Math.floor(stage.n / 20))
      await Promise.all(topics.map((topic) => broker.createTopic(topic, { partitions: 2, groups: ['g'] })))
      const listeners = await Promise.all(topics.map((topic) => stage.listen(broker, topic, { group: 'g', concurrency: 4 })))
      const ids = await Promise.all(topics.map((topic) => stage.publish(broker, keyed(topic, each, 3))))
      await Promise.all(topics.map((topic) => stage.untilRead(broker, topic, 'g')))
      for (const [t, { done }] of listeners.entries()) {
        assert.deepEqual(done.map(({ id }) => id).sort(), [...ids[t]!].sort())
        assertKeyOrder(done)
      }
    },
  },
  {
    name: 'five processes that create, delete and list the same things at once do not disturb each other',
    run: async (stage) => {
      const brokers = await Promise.all(range(5).map(() => stage.broker()))
      const topic = stage.topic()
      await Promise.all(brokers.map((broker) => broker.createTopic(topic, { partitions: 3, groups: ['a', 'b'] })))
      await Promise.all(brokers.flatMap((broker) => ['b', 'c', 'd'].map((group) => broker.createGroup(topic, group))))
      assert.deepEqual([...(await brokers[0]!.listGroups(topic))].sort(), ['a', 'b', 'c', 'd'])
      await Promise.all(brokers.map((broker) => broker.deleteGroup(topic, 'd')))
      assert.deepEqual([...(await brokers[1]!.listGroups(topic))].sort(), ['a', 'b', 'c'])
      const fresh = stage.topic('fresh')
      await Promise.all(brokers.map((broker, i) => broker.publish({ topic: fresh, value: bytes(String(i)) })))
      const listeners = await Promise.all(
        brokers.map((broker) => stage.listen(broker, fresh, { group: 'g', start: stage.capabilities.history ? 'earliest' : 'latest' })),
      )
      if (stage.capabilities.history) await stage.until(() => listeners.reduce((sum, { done }) => sum + done.length, 0) === 5, 'all five')
      await Promise.all(listeners.map(({ subscription }) => subscription.close()))
      await Promise.all(brokers.map((broker) => broker.deleteTopic(topic)))
      assert.deepEqual(
        await Promise.all(brokers.map((broker) => broker.topicExists(topic))),
        range(5).map(() => false),
      )
    },
  },
  {
    name: 'creating and deleting are idempotent; what is deleted is gone with its messages, groups, retries and dead letters',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      for (const _ of range(2)) await broker.createTopic(topic, { partitions: 2, groups: ['g'] })
      for (const _ of range(2)) await broker.createGroup(topic, 'g')
      assert.deepEqual(await broker.listGroups(topic), ['g'])
      await stage.publish(broker, keyed(topic, 3, 3))
      const { subscription } = await stage.listen(broker, topic, { group: 'g', retry: { ...quick, maxAttempts: 1 } }, () => {
        throw new Error('always')
      })
      await stage.untilRead(broker, topic, 'g')
      await subscription.close()
      assert.equal(await broker.deadLetters(topic, 'g').count(), 3)
      assert.deepEqual(
        (await broker.listTopics()).filter((name) => name.startsWith(topic)),
        [topic],
        'what the group made beside it is not listed',
      )
      for (const _ of range(2)) await broker.deleteTopic(topic)
      assert.equal(await broker.topicExists(topic), false)
      await broker.createTopic(topic, { partitions: 3, groups: ['g'] })
      assert.equal((await broker.lag(topic, 'g')).messages, 0)
      assert.equal(await broker.deadLetters(topic, 'g').count(), 0)
      for (const _ of range(2)) await broker.deleteGroup(topic, 'g')
      assert.deepEqual(await broker.listGroups(topic), [])
      await broker.deleteGroup(topic, 'never there').then(
        () => assert.fail('a bad name'),
        (error: unknown) => assert.ok(error instanceof RangeError),
      )
    },
  },
  {
    name: 'a topic made again with other partitions, or with . for _, is ERR_MESSAGING_TOPOLOGY_MISMATCH',
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const topic = stage.topic('a_b')
      const mismatch = { code: 'ERR_MESSAGING_TOPOLOGY_MISMATCH', retryable: false }
      await broker.createTopic(topic, { partitions: 2 })
      await assert.rejects(other.createTopic(topic, { partitions: 3 }), mismatch)
      await assert.rejects(other.createTopic(topic.replace('_', '.'), { partitions: 2 }), mismatch)
      await other.createTopic(topic, { partitions: 2 })
      // Who does not say how many takes what is there.
      await other.createTopic(topic)
      await other.publish({ topic, value: bytes('') })
      await assert.rejects(broker.createTopic(stage.topic(), { partitions: 0 }), RangeError)
    },
  },
  {
    name: 'a topic made again with another retention is ERR_MESSAGING_TOPOLOGY_MISMATCH; who asks for none takes what is there',
    run: async (stage) => {
      const broker = await stage.broker()
      const { broker: other, driver } = await stage.client()
      const [topic, plain] = [stage.topic(), stage.topic('plain')]
      const mismatch = (message: RegExp) => ({ code: 'ERR_MESSAGING_TOPOLOGY_MISMATCH', retryable: false, message })
      await broker.createTopic(topic, { partitions: 2, retention: { maxAgeMs: 60_000 } })
      await broker.createTopic(plain, { partitions: 1 })
      await assert.rejects(other.createTopic(topic, { partitions: 2, retention: { maxAgeMs: 30_000 } }), mismatch(/30000 ms: it is there with 60000 ms/))
      await assert.rejects(other.createTopic(plain, { partitions: 1, retention: { maxAgeMs: 30_000 } }), mismatch(/30000 ms: it is there with none/))
      await assert.rejects(driver.admin.createTopic(plain, { partitions: 1, keep: true, maxAgeMs: undefined }), mismatch(/dead letters/))
      await other.createTopic(topic, { partitions: 2, retention: { maxAgeMs: 60_000 } })
      await other.createTopic(topic, { partitions: 2 })
      assert.equal((await driver.admin.topics(topic))[0]!.spec.maxAgeMs, 60_000)
    },
  },
  {
    name: 'a group whose private topic would be that of another pair is refused before it reads anything, by an error that names both',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic('user_events')
      const short = topic.slice(0, -'_events'.length)
      await stage.listen(broker, topic, { group: 'mail' })
      const both = { code: 'ERR_MESSAGING_TOPOLOGY_MISMATCH', message: new RegExp(`${short}.events_mail.retry .* ${topic}.mail.retry `) }
      await assert.rejects(stage.listen(broker, short, { group: 'events_mail' }), both)
      await broker.deleteTopic(short)
    },
  },
  {
    name: 'lag is what a group has not done: delayed ones and its retries too, and of others nothing',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['a', 'b'] })
      await stage.publish(
        broker,
        keyed(topic, 10, 5).map((input, n) => ({ ...input, timestamp: 1_000 + n })),
      )
      if (stage.capabilities.delay) await broker.publish({ topic, value: bytes('later'), delayMs: 3_600_000, timestamp: 1 })
      const extra = stage.capabilities.delay ? 1 : 0
      const first = await stage.listen(broker, topic, { group: 'a' })
      await stage.until(async () => (await broker.lag(topic, 'a')).messages === extra, 'only the delayed one to be left')
      assert.equal(first.done.length, 10)
      assert.equal((await broker.lag(topic, 'b')).messages, 10 + extra)
      const lags = await Promise.all(['a', 'b'].map((group) => broker.lag(topic, group)))
      if (lags.every(({ approximate }) => !approximate)) {
        const [read, unread] = lags.map(({ oldestAt }) => oldestAt)
        assert.equal(read, undefined)
        // The timestamp of the first one, or when it was stored; the delayed one's is earlier.
        assert.ok(unread! >= 1_000, `oldestAt is ${unread}`)
      }
      assert.deepEqual(await Promise.all(['a', 'b'].map(async (group) => (await broker.lag(topic, group)).members)), [1, 0])
      await assert.rejects(broker.lag(stage.topic('missing'), 'a'), { code: 'ERR_MESSAGING_TOPIC_NOT_FOUND' })
      await assert.rejects(broker.lag(topic, 'nobody'), { code: 'ERR_MESSAGING_TOPIC_NOT_FOUND', message: /There is no group nobody on / })
    },
  },
  {
    name: 'peek reads without consuming, page by page',
    needs: needs.history,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 2, groups: ['g'] })
      const n = 23
      const ids = await stage.publish(
        broker,
        keyed(topic, n, 6).map((input) => ({ ...input, headers: { a: 'ü' } })),
      )
      const seen: string[] = []
      for (const partition of [0, 1]) {
        let after: string | undefined
        for (;;) {
          const page = await broker.peek(topic, { partition, after, limit: 4 })
          assert.ok(page.length <= 4)
          for (const message of page) {
            assert.deepEqual([message.partition, message.headers['a']], [partition, 'ü'])
            seen.push(message.id)
          }
          if (page.length === 0) break
          after = page.at(-1)!.position
        }
      }
      assert.deepEqual(seen.sort(), [...ids].sort())
      assert.equal((await broker.lag(topic, 'g')).messages, n)
    },
  },
  {
    name: 'resetGroup moves a group that nobody reads for, and is ERR_MESSAGING_GROUP_BUSY while somebody does',
    needs: needs.history,
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(broker, keyed(topic, 5, 1))
      const read = async (): Promise<string[]> => {
        const { done, subscription } = await stage.listen(broker, topic, { group: 'g' })
        await stage.untilRead(broker, topic, 'g')
        await subscription.close()
        return done.map(({ text }) => text)
      }
      assert.deepEqual(await read(), ['0', '1', '2', '3', '4'])
      assert.deepEqual(await read(), [])
      await other.resetGroup(topic, 'g', { to: 'earliest' })
      assert.equal((await broker.lag(topic, 'g')).messages, 5)
      assert.deepEqual(await read(), ['0', '1', '2', '3', '4'])
      const [, , third] = await broker.peek(topic)
      await other.resetGroup(topic, 'g', { to: new Map([[0, third!.position]]) })
      assert.deepEqual(await read(), ['2', '3', '4'])
      await other.resetGroup(topic, 'g', { to: 'earliest' })
      await other.resetGroup(topic, 'g', { to: 'latest' })
      assert.deepEqual(await read(), [])
      await other.resetGroup(topic, 'g', { to: new Date(0) })
      const { subscription } = await stage.listen(broker, topic, { group: 'g' })
      await assert.rejects(other.resetGroup(topic, 'g', { to: 'earliest' }), { code: 'ERR_MESSAGING_GROUP_BUSY' })
      await subscription.close()
      await other.resetGroup(topic, 'g', { to: 'earliest' })
      await assert.rejects(other.resetGroup(topic, 'nobody', { to: 'earliest' }), { code: 'ERR_MESSAGING_TOPIC_NOT_FOUND' })
    },
  },
  {
    name: 'messages wait for their groups: without retention for ever, with it at least as long as it says',
    run: async (stage) => {
      const broker = await stage.broker()
      const topics = [stage.topic('kept'), stage.topic('long')]
      await broker.createTopic(topics[0]!, { groups: ['g', 'slow'] })
      await broker.createTopic(topics[1]!, { groups: ['g', 'slow'], retention: { maxAgeMs: 3_600_000 } })
      for (const topic of topics) {
        await stage.publish(broker, keyed(topic, stage.n, 10))
        const first = await stage.listen(broker, topic, { group: 'g', concurrency: 8 })
        await stage.untilRead(broker, topic, 'g')
        assert.equal(first.done.length, stage.n)
        const slow = await stage.listen(broker, topic, { group: 'slow', concurrency: 8 })
        await stage.untilRead(broker, topic, 'slow')
        assert.equal(slow.done.length, stage.n)
      }
    },
  },
  {
    name: 'a topic that another process deleted is made again by who subscribes, with a group or without; what another made anew is read at once',
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, key: 'k', value: bytes('gone') })
      for (const options of [{}, { group: 'g' }]) {
        await other.deleteTopic(topic)
        const { done, subscription } = await stage.listen(broker, topic, options)
        await broker.publish({ topic, key: 'k', value: bytes('new') })
        await stage.until(() => done.length === 1, 'the message')
        assert.equal(done[0]!.text, 'new')
        await subscription.close()
      }
      if (!stage.capabilities.history) return
      for (const partitions of [1, 3]) {
        await other.deleteTopic(topic)
        await other.createTopic(topic, { partitions })
        const { partition } = await other.publish({ topic, key: 'k', value: bytes(`of ${partitions}`) })
        assert.deepEqual((await broker.peek(topic, { partition: partition! })).map(textOf), [`of ${partitions}`])
      }
      await other.deleteTopic(topic)
      await assert.rejects(broker.peek(topic), { code: 'ERR_MESSAGING_TOPIC_NOT_FOUND' })
    },
  },
  {
    name: 'deleting a topic under its consumers is told, never silence, and they can be closed',
    run: async (stage) => {
      const errors: unknown[] = []
      const broker = await stage.broker({ hooks: { onError: ({ error }) => void errors.push(error) } })
      const other = await stage.broker()
      const topic = stage.topic()
      const { subscription, done } = await stage.listen(broker, topic, { group: 'g' })
      await broker.publish({ topic, value: bytes('0') })
      await stage.until(() => done.length === 1, 'the first message')
      await other.deleteTopic(topic)
      await stage.until(() => errors.length > 0 && subscription.stats().error !== undefined, 'an error')
      assert.equal((await broker.health()).status, 'degraded')
      await subscription.close()
      await broker.close()
    },
  },
]
