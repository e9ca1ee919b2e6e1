import assert from 'node:assert/strict'
import type { Delivery, Ownership, Progress } from '../driver.ts'
import { needs } from './needs.ts'
import { assertKeyOrder, beforeCut, keyed, textOf, type Definition, type Listener } from './stage.ts'

/** Groups, their members, and who owns what. */
export const groupCases: readonly Definition[] = [
  {
    name: 'two groups each get every message',
    run: async (stage) => {
      const one = await stage.broker()
      const two = await stage.broker()
      const topic = stage.topic()
      await one.createTopic(topic, { groups: ['a', 'b'] })
      const a = await stage.listen(one, topic, { group: 'a', concurrency: 4 })
      const b = await stage.listen(two, topic, { group: 'b', concurrency: 4 })
      const ids = await stage.publish(one, keyed(topic, stage.n, 10))
      for (const group of ['a', 'b']) await stage.untilRead(one, topic, group)
      for (const { done } of [a, b]) {
        assert.deepEqual(done.map(({ id }) => id).sort(), [...ids].sort())
        assertKeyOrder(done)
      }
    },
  },
  {
    name: 'the members of a group share it: together everything, nothing twice, and each has some',
    leases: true,
    run: async (stage) => {
      const brokers = [await stage.broker(), await stage.broker()]
      const topic = stage.topic()
      await brokers[0]!.createTopic(topic, { groups: ['g'] })
      const members: Listener[] = []
      for (const broker of brokers) members.push(await stage.listen(broker, topic, { group: 'g', concurrency: 4 }))
      await stage.until(() => members.every(({ subscription }) => subscription.stats().partitions >= 2), 'two partitions each')
      const ids = await stage.publish(brokers[0]!, keyed(topic, stage.n, 20))
      await stage.untilRead(brokers[0]!, topic, 'g')
      assert.deepEqual(members.flatMap(({ done }) => done.map(({ id }) => id)).sort(), [...ids].sort())
      for (const { done } of members) {
        assert.ok(done.length > 0)
        assertKeyOrder(done)
      }
    },
  },
  {
    name: 'members that come and go under load lose nothing, double nothing and keep the order of keys',
    leases: true,
    run: async (stage) => {
      const topic = stage.topic()
      const publisher = await stage.broker()
      await publisher.createTopic(topic, { groups: ['g'] })
      const done: { key: string | undefined; text: string; id: string }[] = []
      const options = { group: 'g', concurrency: 4, flushMs: 5 }
      const join = async () =>
        await stage.listen(await stage.broker(), topic, options, async (message) => {
          await stage.clock.sleep(1)
          done.push({ key: message.key, text: textOf(message), id: message.id })
        })
      const first = await join()
      const inputs = keyed(topic, stage.n, 20)
      const third = Math.ceil(stage.n / 3)
      const ids: string[] = [...(await stage.publish(publisher, inputs.slice(0, third)))]
      const second = await join()
      ids.push(...(await stage.publish(publisher, inputs.slice(third, 2 * third))))
      await stage.until(() => second.subscription.stats().partitions >= 2, 'the second member to have its share')
      const last = await join()
      await first.subscription.close()
      ids.push(...(await stage.publish(publisher, inputs.slice(2 * third))))
      await stage.until(() => second.subscription.stats().partitions + last.subscription.stats().partitions === 5, 'the others to have all of it')
      await stage.untilRead(publisher, topic, 'g')
      assert.deepEqual(done.map(({ id }) => id).sort(), ids.sort())
      assertKeyOrder(done)
    },
  },
  {
    name: 'a member that closes hands over cleanly: others go on, nothing is repeated, nobody is suspected',
    leases: true,
    run: async (stage) => {
      const one = await stage.broker()
      const two = await stage.broker()
      const topic = stage.topic()
      await one.createTopic(topic, { partitions: 1, groups: ['g'] })
      const first = await stage.listen(one, topic, { group: 'g' })
      const second = await stage.listen(two, topic, { group: 'g' })
      await stage.publish(one, keyed(topic, 10, 3))
      await stage.until(() => first.done.length + second.done.length === 10, 'ten messages')
      const [leaving, staying] = first.done.length > 0 ? [first, second] : [second, first]
      await leaving.subscription.close()
      await stage.publish(one, keyed(topic, 10, 3))
      await stage.untilRead(two, topic, 'g')
      assert.equal(leaving.done.length, 10)
      assert.equal(staying.done.length, 10)
    },
  },
  {
    name: 'a member that is cut off loses its partitions to another, and what it says later is refused',
    needs: needs.sever,
    leases: true,
    run: async (stage) => {
      const { client, broker, topic, gate } = await beforeCut(stage, 3)
      let reason: unknown
      const cut = await stage.listen(client.broker, topic, { group: 'g', concurrency: 3 }, async (_message, { signal }) => {
        signal.addEventListener('abort', () => (reason = signal.reason))
        await gate.promise
      })
      await stage.until(() => cut.runs.length === 3, 'three in flight')
      await stage.sever(client)
      const next = await stage.listen(broker, topic, { group: 'g', concurrency: 3 })
      await stage.until(() => next.done.length === 3, 'the other member to have them')
      await stage.until(() => reason !== undefined, 'the signal of who was cut off')
      assert.equal((reason as { code: string }).code, 'ERR_MESSAGING_OWNERSHIP_LOST')
      await stage.until(() => cut.subscription.stats().partitions === 0, 'it to know')
      // The zombies end now: their completions count for nobody.
      gate.resolve()
      await stage.untilRead(broker, topic, 'g')
      await stage.until(() => cut.done.length === 3, 'the zombies to end')
      assert.equal(client.broker.stats().acked, 0)
      assert.equal(next.done.length, 3)
    },
  },
  {
    name: 'a settlement of an epoch that is over is refused and changes nothing, and its epoch never comes again',
    needs: needs.serverFencing,
    leases: true,
    run: async (stage) => {
      const { broker, driver } = await stage.client()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(broker, keyed(topic, 4, 1))
      const signal = new AbortController().signal
      const join = async (): Promise<{
        take(n: number): Promise<readonly Delivery[]>
        settle(progress: Partial<Progress>): Promise<readonly string[]>
        epoch: number
        leave(): Promise<void>
      }> => {
        let epoch = 0
        const owner: Ownership = { assigned: (_partition, now) => (epoch = now), revoking: () => undefined, lost: () => undefined, renewed: () => undefined }
        const consumption = await driver.consume(topic, 'g', owner)
        await stage.until(() => epoch > 0, 'the partition')
        return {
          epoch,
          take: (n) => consumption.fetch(new Map([[0, n]]), { signal }),
          settle: (progress) => consumption.settle([{ partition: 0, epoch, watermark: undefined, above: [], settled: [], ...progress }]),
          leave: async () => {
            await consumption.release(0, epoch)
            await consumption.close()
          },
        }
      }
      const first = await join()
      const [a, b] = [...(await first.take(1)), ...(await first.take(1))]
      assert.deepEqual(await first.settle({ watermark: a!, settled: [a!] }), ['settled'])
      await first.leave()
      const second = await join()
      assert.ok(second.epoch > first.epoch, 'epochs only grow')
      assert.deepEqual(await first.settle({ watermark: b!, settled: [b!] }).catch(() => ['stale']), ['stale'])
      const [again] = await second.take(1)
      assert.equal(again!.message.id, b!.message.id, 'what was settled too late comes again')
      assert.equal(again!.epoch, second.epoch)
      assert.deepEqual(await second.settle({ watermark: again!, settled: [again!] }), ['settled'])
      await second.leave()
      assert.equal((await broker.lag(topic, 'g')).messages, 2)
    },
  },
  {
    name: 'a partition has one owner at a time, whoever comes and goes',
    leases: true,
    run: async (stage) => {
      const { broker, driver } = await stage.client()
      const others = [await stage.client(), await stage.client()]
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 6, groups: ['g'] })
      const owners = new Map<number, string>()
      const faults: string[] = []
      const epochs = new Map<number, number>()
      const join = async (name: string, from: typeof driver) => {
        const mine = new Map<number, number>()
        const gone = (partition: number): void => {
          mine.delete(partition)
          if (owners.get(partition) === name) owners.delete(partition)
        }
        const give = async (partition: number): Promise<void> => {
          const epoch = mine.get(partition)
          if (epoch === undefined) return
          gone(partition)
          await consumption.release(partition, epoch)
        }
        const owner: Ownership = {
          assigned: (partition, epoch) => {
            if (owners.has(partition)) faults.push(`${partition} went to ${name} while ${owners.get(partition)} had it`)
            if (epoch <= (epochs.get(partition) ?? 0)) faults.push(`epoch ${epoch} of ${partition} after ${epochs.get(partition)}`)
            owners.set(partition, name)
            epochs.set(partition, epoch)
            mine.set(partition, epoch)
          },
          revoking: (partition) => void give(partition),
          lost: gone,
          renewed: () => undefined,
        }
        const consumption = await from.consume(topic, 'g', owner)
        return {
          mine,
          leave: async () => {
            for (const partition of mine.keys()) await give(partition)
            await consumption.close()
          },
        }
      }
      const first = await join('first', driver)
      await stage.until(() => first.mine.size === 6, 'all to go to the only one')
      const second = await join('second', others[0]!.driver)
      await stage.until(() => first.mine.size === 3 && second.mine.size === 3, 'half each')
      const third = await join('third', others[1]!.driver)
      await stage.until(() => [first, second, third].every(({ mine }) => mine.size === 2), 'a third each')
      await first.leave()
      await stage.until(() => second.mine.size === 3 && third.mine.size === 3, 'half each again')
      await Promise.all([second.leave(), third.leave()])
      assert.deepEqual(faults, [])
    },
  },
  {
    name: 'a failure in one group is heard by no other, also when the retry leaves the order',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['failing', 'quiet', 'leaving'] })
      const quiet = await stage.listen(broker, topic, { group: 'quiet' })
      const broadcast = await stage.listen(broker, topic, {})
      const fail = (message: { attempt: number }): void => {
        if (message.attempt === 1) throw new Error('once')
      }
      const failing = await stage.listen(broker, topic, { group: 'failing', concurrency: 4 }, fail)
      const leaving = await stage.listen(broker, topic, { group: 'leaving', concurrency: 4, order: 'none' }, fail)
      await stage.publish(broker, keyed(topic, 10, 10))
      for (const group of ['failing', 'quiet', 'leaving']) await stage.untilRead(broker, topic, group)
      await stage.until(() => broadcast.done.length >= 10, 'the broadcast')
      assert.deepEqual([failing.runs.length, leaving.runs.length], [20, 20])
      assert.deepEqual([quiet.runs.length, broadcast.runs.length], [10, 10])
      assert.deepEqual(await broker.listGroups(topic).then((groups) => [...groups].sort()), ['failing', 'leaving', 'quiet'])
    },
  },
]
