import assert from 'node:assert/strict'
import type { Broker } from '../broker.ts'
import type { MessageInput } from '../message.ts'
import { needs } from './needs.ts'
import { assertKeyOrder, bytes, code, type Definition, keyed, range } from './stage.ts'

/** Storing: order, answers, and the end of a publisher. */
export const publishCases: readonly Definition[] = [
  {
    name: "with topics: 'expect' a missing topic is ERR_MESSAGING_TOPIC_NOT_FOUND, never silence",
    run: async (stage) => {
      const broker = await stage.broker({ topics: 'expect' })
      const topic = stage.topic()
      const notFound = code('ERR_MESSAGING_TOPIC_NOT_FOUND')
      await assert.rejects(broker.publish({ topic, value: bytes('') }), notFound)
      await assert.rejects(
        broker.subscribe(topic, { group: 'g' }, () => undefined),
        notFound,
      )
      await assert.rejects(
        broker.subscribe(topic, {}, () => undefined),
        notFound,
      )
      await assert.rejects(broker.createGroup(topic, 'g'), notFound)
      const [result] = await broker.publishBatch([{ topic, value: bytes('') }])
      assert.equal(result!.status, 'rejected')
      assert.equal(await broker.topicExists(topic), false)
      await broker.createTopic(topic)
      await broker.publish({ topic, value: bytes('') })
    },
  },
  {
    name: 'by default a missing topic is made, also one that was deleted behind the publisher',
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const topic = stage.topic()
      await broker.publish({ topic, value: bytes('gone with the topic') })
      await other.deleteTopic(topic)
      assert.equal(await broker.topicExists(topic), false)
      await broker.publish({ topic, value: bytes('kept') })
      const { done } = await stage.listen(broker, topic, { group: 'g', start: stage.capabilities.history ? 'earliest' : 'latest' })
      await broker.publish({ topic, value: bytes('last') })
      await stage.until(() => done.some(({ text }) => text === 'last'), 'the last message')
      assert.ok(!done.some(({ text }) => text === 'gone with the topic'))
      if (stage.capabilities.history) assert.ok(done.some(({ text }) => text === 'kept'))
    },
  },
  {
    name: 'no message overtakes one of its key that waits for another topic of its call to be made',
    run: async (stage) => {
      const { broker } = await stage.client({}, (driver) => ({
        ...driver,
        admin: {
          ...driver.admin,
          topics: async (topic) => {
            await stage.clock.sleep(30)
            return driver.admin.topics(topic)
          },
        },
      }))
      const [topic, missing] = [stage.topic('there'), stage.topic('missing')]
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await broker.publish({ topic, key: 'k', value: bytes('0') })
      const publishing = [broker.publish({ topic, key: 'k', value: bytes('1') }), broker.publish({ topic: missing, value: bytes('') })]
      await stage.clock.sleep(5)
      publishing.push(broker.publish({ topic, key: 'k', value: bytes('2') }))
      await Promise.all(publishing)
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        done.map(({ text }) => text),
        ['0', '1', '2'],
      )
    },
  },
  {
    name: 'after close everything is ERR_MESSAGING_CLOSED, and closing twice is fine',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.publish({ topic, value: bytes('') })
      await Promise.all([broker.close(), broker.close()])
      await broker.close()
      const closed = code('ERR_MESSAGING_CLOSED')
      await assert.rejects(broker.publish({ topic, value: bytes('') }), closed)
      await assert.rejects(broker.publishBatch([{ topic, value: bytes('') }]), closed)
      await assert.rejects(
        broker.subscribe(topic, { group: 'g' }, () => undefined),
        closed,
      )
      await assert.rejects(broker.pull(topic, { group: 'g' }), closed)
      await assert.rejects(broker.createTopic(topic), closed)
      await assert.rejects(broker.lag(topic, 'g'), closed)
      await assert.rejects(broker.deadLetters(topic, 'g').count())
      assert.equal((await broker.health()).status, 'down')
    },
  },
  {
    name: 'an aborted signal rejects with its reason: before, nothing is stored; during, nobody waits',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      const reason = new Error('enough')
      const signal = AbortSignal.abort(reason)
      await assert.rejects(broker.publish({ topic, key: 'k', value: bytes('before') }, { signal }), reason)
      await assert.rejects(broker.publishBatch([{ topic, key: 'k', value: bytes('before') }], { signal }), reason)
      const during = new AbortController()
      const publishing = broker.publish({ topic, key: 'k', value: bytes('during') }, { signal: during.signal })
      during.abort(reason)
      await assert.rejects(publishing, reason)
      await broker.publish({ topic, key: 'k', value: bytes('after') })
      await stage.until(() => done.some(({ text }) => text === 'after'), 'the last message')
      assert.ok(!done.some(({ text }) => text === 'before'))
    },
  },
  {
    name: 'a batch keeps the order of its keys, is split where it must be, and has a result for each message',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const inputs = keyed(topic, stage.n, 7).map((input, i) => ({ ...input, id: `m${i}` }))
      const results = await broker.publishBatch(inputs)
      assert.deepEqual(
        results.map(({ id, status }) => `${id} ${status}`),
        inputs.map(({ id }) => `${id} stored`),
      )
      const { done } = await stage.listen(broker, topic, { group: 'g', concurrency: 16 })
      await stage.until(() => done.length >= stage.n, 'every message')
      assertKeyOrder(done)
      assert.equal(done.length, stage.n)
    },
  },
  {
    name: 'what is published one after another keeps the order of its keys though nobody waits in between, and though another topic is made meanwhile',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, key: 'known', value: bytes('0') })
      const publishing: Promise<unknown>[] = []
      const inputs = keyed(topic, stage.n, 5)
      const half = Math.floor(stage.n / 2)
      for (const [i, input] of inputs.slice(0, half).entries()) {
        publishing.push(broker.publish(input))
        if (i % 10 === 0) publishing.push(broker.publish({ topic: stage.topic(`new${i}`), value: bytes('') }))
        // Later turns of the event loop: what is sent together is another batch each time.
        if (i % 3 === 0) await Promise.resolve()
        if (i % 7 === 0) await stage.clock.sleep(0)
      }
      const quarter = half + Math.floor(stage.n / 4)
      for (const batch of [inputs.slice(half, quarter), inputs.slice(quarter)]) publishing.push(stage.publish(broker, batch))
      await Promise.all(publishing)
      const { done } = await stage.listen(broker, topic, { group: 'g', concurrency: 8 })
      await stage.untilRead(broker, topic, 'g')
      assertKeyOrder(done)
      assert.equal(done.length, stage.n + 1)
    },
  },
  {
    name: 'one bad message of a batch fails alone, with those of its key behind it',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const inputs = keyed(topic, 30, 3)
      inputs[9] = { ...inputs[9]!, headers: { 'not a name': '' } }
      const results = await broker.publishBatch(inputs)
      const failed = results.flatMap(({ status }, i) => (status === 'stored' ? [] : [i]))
      assert.deepEqual(failed, [9, 12, 15, 18, 21, 24, 27])
      const error = (results[9] as { error?: Error & { code: string; retryable: boolean } }).error!
      assert.deepEqual([error.code, error.retryable], ['ERR_MESSAGING_PUBLISH', false])
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(done.length, 23)
      assert.deepEqual(
        done.filter(({ key }) => key === 'key-0').map(({ text }) => text),
        ['0', '1', '2'],
      )
    },
  },
  {
    name: 'after the broker refused a message of a key, no later one of that key in the batch is stored',
    needs: needs.refuse,
    run: async (stage) => {
      const client = await stage.client()
      const topic = stage.topic()
      await client.broker.createTopic(topic, { groups: ['g'] })
      const inputs = keyed(topic, Math.max(30, stage.n), 3).map((input, i) => ({ ...input, id: `${topic}/${i}` }))
      stage.refuse(client, new Set([inputs[9]!.id]))
      const results = await client.broker.publishBatch(inputs, { timeoutMs: 2_000 })
      const { done } = await stage.listen(await stage.broker(), topic, { group: 'g' })
      await stage.untilRead(client.broker, topic, 'g')
      const came = new Set(done.map(({ id }) => id))
      assert.ok(!came.has(inputs[9]!.id))
      for (const { id, status } of results) {
        if (status === 'stored') assert.ok(came.has(id), `${id} was confirmed and is lost`)
        if (status === 'rejected') assert.ok(!came.has(id), `${id} was certainly not stored, and came`)
      }
      results.forEach(({ id, status }, i) => {
        if (i >= 9 && i % 3 === 0) assert.ok(status !== 'stored' && !came.has(id), `${id} stands behind a refused message of its key`)
      })
    },
  },
  {
    name: 'a driver answers each message of a call for itself: what is refused leaves the others stored',
    run: async (stage) => {
      const { broker, driver } = await stage.client()
      const topic = stage.topic()
      const missing = stage.topic('missing')
      await broker.createTopic(topic, { groups: ['g'] })
      const outgoing = (to: string, id: string) => ({
        id,
        topic: to,
        key: 'k',
        value: bytes(id),
        headers: {},
        timestamp: 1,
        tombstone: false,
        deliverAt: undefined,
        dedupeId: undefined,
        rawKey: undefined,
        rawHeaders: undefined,
      })
      const results = await driver.publish([outgoing(topic, 'a'), outgoing(missing, 'b'), outgoing(topic, 'c')], { signal: new AbortController().signal })
      assert.deepEqual(
        results.map(({ status }) => status),
        ['stored', 'rejected', 'stored'],
      )
      assert.equal((results[1] as { error: { code?: string } }).error.code, 'ERR_MESSAGING_TOPIC_NOT_FOUND')
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        done.map(({ id }) => id),
        ['a', 'c'],
      )
    },
  },
  {
    name: 'what fifty publishers send at once all comes, once',
    run: async (stage) => {
      const brokers = [await stage.broker(), await stage.broker(), await stage.broker()]
      const topic = stage.topic()
      await brokers[0]!.createTopic(topic, { groups: ['g'] })
      const { done } = await stage.listen(brokers[0]!, topic, { group: 'g', concurrency: 16 })
      const each = Math.ceil(stage.n / 50)
      const ids = await Promise.all(
        range(50).map(async (p) => {
          const sent: string[] = []
          for (const i of range(each)) sent.push((await brokers[p % 3]!.publish({ topic, key: i % 2 ? `key-${p}` : undefined, value: bytes(String(i)) })).id)
          return sent
        }),
      )
      await stage.until(() => done.length >= 50 * each, 'every message')
      await stage.untilRead(brokers[0]!, topic, 'g')
      assert.deepEqual(done.map(({ id }) => id).sort(), ids.flat().sort())
    },
  },
  {
    name: 'close settles every publish under way, and each answer is true',
    run: async (stage) => {
      const sender = await stage.broker()
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const publishing = range(stage.n).map((i) => sender.publish({ topic, id: String(i), value: bytes('') }))
      const settled = Promise.allSettled(publishing)
      await sender.close()
      const results = await stage.within(1_000, 'settling after close', () => settled)
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      const stored = results.flatMap(({ status }, i) => (status === 'fulfilled' ? [String(i)] : []))
      await stage.until(() => stored.every((id) => done.some((one) => one.id === id)), 'what was confirmed')
      assert.ok(stored.length > 0)
      for (const [i, result] of results.entries())
        if (result.status === 'rejected' && (result.reason as { code?: string }).code !== 'ERR_MESSAGING_PUBLISH_UNKNOWN')
          assert.ok(!done.some(({ id }) => id === String(i)), `message ${i} was refused and came`)
    },
  },
  {
    name: 'a publisher that is cut off knows of each message whether it is stored, certainly not, or unknown',
    needs: needs.sever,
    run: async (stage) => {
      const client = await stage.client()
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const answers = new Map<string, string>()
      const publishing: Promise<unknown>[] = []
      for (const i of range(20)) {
        const batch = keyed(topic, 20, 4).map((input, j) => ({ ...input, value: bytes(String(i * 5 + Math.floor(j / 4))), id: `${i}.${j}` }))
        publishing.push(client.broker.publishBatch(batch, { timeoutMs: 800 }).then((results) => results.forEach(({ id, status }) => answers.set(id, status))))
        if (i === 8) await publishing[4]
      }
      await stage.sever(client)
      await Promise.all(publishing)
      const late = await client.broker.publish({ topic, value: bytes('after') }, { timeoutMs: 800 }).then(
        () => 'stored',
        (error: { code: string }) => error.code,
      )
      assert.match(late, /^ERR_MESSAGING_(PUBLISH|PUBLISH_UNKNOWN|CONNECTION)$/)
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      const came = new Set(done.map(({ id }) => id))
      for (const [id, status] of answers) {
        if (status === 'stored') assert.ok(came.has(id), `message ${id} was confirmed and is lost`)
        if (status === 'rejected') assert.ok(!came.has(id), `message ${id} was certainly not stored, and came`)
      }
      assert.ok([...answers.values()].includes('stored'))
      assertKeyOrder(done)
    },
  },
  {
    name: 'what was confirmed is there when its publisher is gone at once',
    needs: needs.sever,
    run: async (stage) => {
      const client = await stage.client()
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const ids = await stage.publish(client.broker, keyed(topic, stage.n, 10))
      await stage.sever(client)
      const { done } = await stage.listen(broker, topic, { group: 'g', concurrency: 8 })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(done.map(({ id }) => id).sort(), [...ids].sort())
    },
  },
  {
    name: 'a dedupeId is stored once a topic, and the second answer says so; an id alone deduplicates nothing',
    needs: needs.dedupe,
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const [topic, second] = [stage.topic(), stage.topic('second')]
      const send = async (from: Broker, input: Partial<MessageInput> & { value: Uint8Array }): Promise<boolean> =>
        (await from.publish({ topic, key: 'k', ...input })).duplicate
      assert.equal(await send(broker, { value: bytes('a'), dedupeId: 'd' }), false)
      assert.equal(await send(other, { value: bytes('again'), dedupeId: 'd' }), true)
      assert.equal(await send(broker, { value: bytes('elsewhere'), dedupeId: 'd', topic: second }), false)
      assert.equal(await send(broker, { value: bytes('b'), id: 'same' }), false)
      assert.equal(await send(other, { value: bytes('c'), id: 'same' }), false)
      const both = await broker.publishBatch([
        { topic, key: 'k', value: bytes('d'), dedupeId: 'twice' },
        { topic, key: 'k', value: bytes('again'), dedupeId: 'twice' },
      ])
      assert.deepEqual(
        both.map((result) => result.status === 'stored' && result.duplicate),
        [false, true],
      )
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        done.map(({ text }) => text),
        ['a', 'b', 'c', 'd'],
      )
    },
  },
  {
    name: 'a dedupeId is ERR_MESSAGING_UNSUPPORTED where the broker has none',
    needs: needs.noDedupe,
    run: async (stage) => {
      const broker = await stage.broker()
      await assert.rejects(broker.publish({ topic: stage.topic(), value: bytes(''), dedupeId: 'd' }), code('ERR_MESSAGING_UNSUPPORTED'))
    },
  },
]
