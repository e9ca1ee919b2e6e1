import assert from 'node:assert/strict'
import { needs } from './needs.ts'
import { assertKeyOrder, beforeCut, bytes, keyed, range, textOf, type Definition } from './stage.ts'

/** Order, concurrency, bounds and progress of one subscription. */
export const orderCases: readonly Definition[] = [
  {
    name: 'no second message of a key comes before the first is acknowledged, while other keys go on',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 12, 4))
      const gate = stage.gate()
      const held = await stage.listen(broker, topic, { group: 'g', concurrency: 8 }, async ({ key, value }) => {
        if (key === 'key-1' && textOf({ value }) === '0') await gate.promise
      })
      await stage.until(() => held.done.length === 9, 'the other keys')
      assert.deepEqual(
        held.runs.filter(({ key }) => key === 'key-1').map(({ text }) => text),
        ['0'],
      )
      gate.resolve()
      await stage.untilRead(broker, topic, 'g')
      assertKeyOrder(held.done)
      assert.equal(held.done.length, 12)
    },
  },
  {
    name: 'keys stay in order at concurrency 16 while a tenth of the handlers fail, and everything is done once',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, stage.n, 20))
      const failed = new Set<string>()
      const { runs, done } = await stage.listen(broker, topic, { group: 'g', concurrency: 16 }, async (message) => {
        const i = Number(textOf(message)) + Number(message.key!.slice(4)) * 7
        await stage.clock.sleep(i % 3)
        if (i % 10 === 0 && !failed.has(message.id)) {
          failed.add(message.id)
          throw new Error('the first run fails')
        }
      })
      await stage.untilRead(broker, topic, 'g')
      assertKeyOrder(done)
      assert.equal(done.length, stage.n)
      assert.equal(runs.length, stage.n + failed.size)
      assert.ok(failed.size > 0)
    },
  },
  {
    name: "order: 'key' runs messages without a key side by side",
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(
        broker,
        range(4).map(() => ({ topic, value: bytes('') })),
      )
      const gate = stage.gate()
      const { runs } = await stage.listen(broker, topic, { group: 'g', concurrency: 4 }, () => gate.promise)
      await stage.until(() => runs.length === 4, 'all four at once')
    },
  },
  {
    name: "order: 'partition' runs one message of a partition at a time, in its order, retries included",
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 2, groups: ['g'] })
      const n = Math.min(stage.n, 100)
      await stage.publish(broker, keyed(topic, n, 10))
      const positions: string[][] = [[], []]
      const running = [0, 0]
      const failed = new Set<string>()
      await stage.listen(broker, topic, { group: 'g', concurrency: 8, order: 'partition' }, async (message, { partition, position }) => {
        assert.equal(++running[partition]!, 1, 'one at a time')
        await stage.clock.sleep(1)
        running[partition]!--
        if (Number(textOf(message)) % 4 === 0 && !failed.has(message.id)) {
          failed.add(message.id)
          throw new Error('the first run fails')
        }
        positions[partition]!.push(position)
      })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(positions.flat().length, n)
      if (!stage.capabilities.history) return
      for (const partition of [0, 1]) {
        const log = await broker.peek(topic, { partition, limit: n })
        assert.deepEqual(
          positions[partition],
          log.map(({ position }) => position),
        )
      }
    },
  },
  {
    name: "order: 'none' runs messages of one key side by side",
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 6, 1))
      const gate = stage.gate()
      const { runs } = await stage.listen(broker, topic, { group: 'g', concurrency: 6, order: 'none' }, () => gate.promise)
      await stage.until(() => runs.length === 6, 'all six at once')
    },
  },
  {
    name: 'concurrency is never exceeded, and changes at run time',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const n = Math.min(stage.n, 200)
      await stage.publish(broker, keyed(topic, n, n))
      let running = 0
      let limit = 4
      let most = 0
      const { subscription, done } = await stage.listen(broker, topic, { group: 'g', concurrency: limit }, async () => {
        running++
        assert.ok(running <= limit, `${running} at once, ${limit} may`)
        most = Math.max(most, running)
        await stage.clock.sleep(2)
        running--
      })
      await stage.until(() => done.length >= n / 5 && most === 4, 'four at once')
      limit = 9
      subscription.setConcurrency(9)
      await stage.until(() => done.length >= n / 2 || most === 9, 'nine at once')
      // Those over the new limit may end first.
      subscription.setConcurrency(2)
      await stage.until(() => running <= 2 || done.length === n, 'what is over the limit to end')
      limit = 2
      await stage.untilRead(broker, topic, 'g')
      assert.equal(done.length, n)
      assert.throws(() => subscription.setConcurrency(0), RangeError)
    },
  },
  {
    name: 'a slow handler holds no more than prefetch in the process',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, stage.n, 10))
      const gate = stage.gate()
      const most = { buffered: 0, running: 0 }
      const { subscription, runs, done } = await stage.listen(broker, topic, { group: 'g', concurrency: 2, prefetch: 8 }, async () => {
        const { buffered, running } = broker.stats()
        most.buffered = Math.max(most.buffered, buffered)
        most.running = Math.max(most.running, running)
        await gate.promise
      })
      await stage.until(() => runs.length === 2 && subscription.stats().buffered >= 4, 'the buffer to fill')
      await stage.clock.sleep(50)
      assert.ok(subscription.stats().buffered <= 8)
      gate.resolve()
      await stage.untilRead(broker, topic, 'g')
      assert.equal(done.length, stage.n)
      assert.ok(most.buffered <= 8 && most.running <= 2, `${most.buffered} waited and ${most.running} ran`)
    },
  },
  {
    name: 'a key that waits for its next run holds up no other, however many of its messages are behind it',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const { done } = await stage.listen(broker, topic, { group: 'g', concurrency: 4, prefetch: 10 }, ({ key }, context) => {
        if (key === 'bad') context.retry({ delayMs: 60_000 })
      })
      const n = 60
      await stage.publish(
        broker,
        range(n).map((i) => ({ topic, key: 'bad', value: bytes(String(i)) })),
      )
      await stage.publish(broker, keyed(topic, n, 20))
      await stage.until(() => done.filter(({ key }) => key !== 'bad').length === n, 'all messages of other keys')
      assert.equal(done.length, n + 1)
    },
  },
  {
    name: 'a full window stops its partition, shows in the stats, and lets others pass',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 2, groups: ['g'] })
      const gate = stage.gate()
      let first: string | undefined
      const { subscription, runs, done } = await stage.listen(broker, topic, { group: 'g', concurrency: 4, order: 'none', maxInFlight: 5 }, async (message) => {
        if (message.id === first) await gate.promise
      })
      first = 'blocked'
      await broker.publish({ topic, id: first, key: 'a', value: bytes('0') })
      await stage.until(() => runs.length === 1, 'the one that blocks')
      const { partition } = runs[0]!
      const n = 40
      await stage.publish(broker, keyed(topic, n, 8))
      await stage.until(() => subscription.stats().full === 1, 'a full window')
      const [behind, beside] = [
        (): number => done.filter((one) => one.partition === partition).length,
        (): number => done.filter((one) => one.partition !== partition).length,
      ]
      await stage.until(() => beside() + runs.filter((one) => one.partition === partition).length >= 5 && behind() === 4, 'what fits the window')
      await stage.clock.sleep(30)
      assert.equal(behind(), 4, 'four behind the one that blocks, five in the window')
      gate.resolve()
      await stage.untilRead(broker, topic, 'g')
      assert.equal(done.length, n + 1)
      assert.equal(subscription.stats().full, 0)
    },
  },
  {
    name: 'progress never passes an unfinished message, and what is done beyond it does not come again',
    needs: needs.sever,
    leases: true,
    run: async (stage) => {
      const { client, broker, topic, gate } = await beforeCut(stage, 20)
      const stuck = new Set(['key-3', 'key-7'])
      const first = await stage.listen(client.broker, topic, { group: 'g', concurrency: 20, flushMs: 5 }, async ({ key }) => {
        if (stuck.has(key!)) await gate.promise
      })
      await stage.until(async () => first.done.length === 18 && (await broker.lag(topic, 'g')).messages === 2, 'all but two to be stored as done')
      await stage.sever(client)
      const second = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        second.done.map(({ key }) => key),
        ['key-3', 'key-7'],
      )
    },
  },
  {
    name: 'after a crash the repeated ones are at most what was in flight and what was done since the last flush, and nothing is lost',
    needs: needs.sever,
    leases: true,
    run: async (stage) => {
      const client = await stage.client()
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, stage.n, 10))
      const flushEvery = Math.max(5, Math.floor(stage.n / 20))
      const concurrency = 4
      const first = await stage.listen(client.broker, topic, { group: 'g', concurrency, flushMs: 60_000, flushEvery }, () => stage.clock.sleep(1))
      await stage.until(() => first.done.length >= stage.n / 2, 'half of it')
      await stage.sever(client)
      const doneBefore = new Set(first.done.map(({ id }) => id))
      const second = await stage.listen(broker, topic, { group: 'g', concurrency })
      await stage.untilRead(broker, topic, 'g')
      const repeated = second.done.filter(({ id }) => doneBefore.has(id)).length
      // A flush under way when the connection went counts as not stored: one more flush a partition.
      const bound = concurrency + 4 * 2 * flushEvery
      assert.ok(repeated <= bound, `${repeated} came again, at most ${bound} may`)
      assert.equal(new Set([...doneBefore, ...second.done.map(({ id }) => id)]).size, stage.n)
      assertKeyOrder([...first.done.filter(({ id }) => doneBefore.has(id)), ...second.done])
    },
  },
  {
    name: 'what an owner took over as done stays done, also when its first settlement fails',
    needs: needs.sever,
    leases: true,
    run: async (stage) => {
      const { client, broker, topic, gate } = await beforeCut(stage, 10)
      const first = await stage.listen(client.broker, topic, { group: 'g', concurrency: 10, flushMs: 5 }, ({ key }) =>
        key === 'key-0' ? gate.promise : undefined,
      )
      await stage.until(async () => first.done.length === 9 && (await broker.lag(topic, 'g')).messages === 1, 'nine of ten, stored beyond the first')
      await stage.sever(client)
      let failures = 2
      const heir = await stage.client({}, (driver) => ({
        ...driver,
        consume: async (...args) => {
          const consumption = await driver.consume(...args)
          return {
            ...consumption,
            settle: (progress) => (failures-- > 0 ? Promise.reject(new Error('no answer')) : consumption.settle(progress)),
          }
        },
      }))
      const second = await stage.listen(heir.broker, topic, { group: 'g', concurrency: 10, flushMs: 5 })
      await stage.untilRead(broker, topic, 'g')
      assert.ok(failures < 0, 'a settlement failed')
      await second.subscription.close()
      assert.deepEqual(
        second.done.map(({ key }) => key),
        ['key-0'],
      )
      await stage.publish(broker, [{ topic, key: 'last', value: bytes('0') }])
      const third = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        third.done.map(({ key }) => key),
        ['last'],
      )
    },
  },
  {
    name: 'pause starts nothing more and keeps its partitions; resume goes on',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const { subscription, runs, done } = await stage.listen(broker, topic, { group: 'g' })
      const other = await stage.listen(broker, topic, { group: 'other' })
      await stage.publish(broker, keyed(topic, 10, 3))
      await stage.until(() => done.length === 10, 'ten messages')
      subscription.pause()
      assert.equal(subscription.state, 'paused')
      await stage.publish(broker, keyed(topic, 10, 3))
      await stage.until(() => other.done.length === 20, 'the other group, which is not paused')
      assert.equal(runs.length, 10)
      assert.ok(subscription.stats().partitions > 0)
      subscription.resume()
      assert.equal(subscription.state, 'running')
      await stage.untilRead(broker, topic, 'g')
      assert.equal(done.length, 20)
    },
  },
  {
    name: 'a handler that takes three leases runs once, and nobody else gets its partition',
    leases: true,
    run: async (stage) => {
      const one = await stage.broker()
      const two = await stage.broker()
      const topic = stage.topic()
      await one.createTopic(topic, { partitions: 1, groups: ['g'] })
      const silence = Math.max(stage.leaseMs, stage.capabilities.ackDeadlineMs ?? 0)
      const aborted: unknown[] = []
      const slow = async (_message: unknown, { signal }: { signal: AbortSignal }): Promise<void> => {
        await stage.clock.sleep(3 * silence)
        if (signal.aborted) aborted.push(signal.reason)
      }
      const listeners = [await stage.listen(one, topic, { group: 'g' }, slow), await stage.listen(two, topic, { group: 'g' }, slow)]
      // A member that joins may be given the partition; after that nobody has a reason to.
      await stage.clock.sleep(2 * silence)
      await stage.publish(one, keyed(topic, 1, 1))
      await stage.untilRead(one, topic, 'g')
      assert.equal(
        listeners.reduce((sum, { runs }) => sum + runs.length, 0),
        1,
      )
      assert.deepEqual(aborted, [])
    },
  },
]
