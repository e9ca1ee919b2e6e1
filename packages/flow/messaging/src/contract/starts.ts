import assert from 'node:assert/strict'
import { partitionOf } from '../partition.ts'
import { needs } from './needs.ts'
import { bytes, type Definition, keyed, range } from './stage.ts'

/** Where a new group begins. */
export const startCases: readonly Definition[] = [
  {
    name: "a new group begins where it is told: 'earliest', 'latest', a time, a position; one that is there stays where it stands",
    needs: needs.history,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['keeper'] })
      await stage.publish(broker, keyed(topic, 3, 1))
      // Both sides of the time must differ by a millisecond on the broker's clock.
      await stage.clock.sleep(30)
      const between = new Date(stage.clock.now())
      await stage.clock.sleep(30)
      await stage.publish(broker, keyed(topic, 6, 1).slice(3))
      const [, second] = await broker.peek(topic, { limit: 2 })
      await broker.createGroup(topic, 'positions', { start: new Map([[0, second!.position]]) })
      await broker.createGroup(topic, 'latest', { start: 'latest' })
      await broker.createGroup(topic, 'time', { start: between })
      await broker.createGroup(topic, 'earliest')
      await broker.createGroup(topic, 'latest', { start: 'earliest' })
      await broker.publish({ topic, key: 'key-0', value: bytes('6') })
      const expected = { positions: ['1', '2', '3', '4', '5', '6'], latest: ['6'], time: ['3', '4', '5', '6'], earliest: ['0', '1', '2', '3', '4', '5', '6'] }
      for (const [group, texts] of Object.entries(expected)) {
        // The start of a subscription is for a group that is not there yet.
        const { done, subscription } = await stage.listen(broker, topic, { group, start: 'latest' })
        await stage.untilRead(broker, topic, group)
        assert.deepEqual(
          done.map(({ text }) => text),
          texts,
          group,
        )
        await subscription.close()
      }
      const fresh = await stage.listen(broker, topic, { group: 'fresh', start: 'latest' })
      await broker.publish({ topic, key: 'key-0', value: bytes('7') })
      await stage.untilRead(broker, topic, 'fresh')
      assert.deepEqual(
        fresh.done.map(({ text }) => text),
        ['7'],
      )
    },
  },
  {
    name: 'a start beyond the end is the end, a partition that is not named begins at its first message, and a time is that of the message',
    needs: needs.history,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 2, groups: ['keeper'] })
      const keys = [0, 1].map((partition) =>
        range(100)
          .map(String)
          .find((key) => partitionOf(key, 2) === partition)!,
      )
      const now = stage.clock.now()
      const put = (text: string, partition: number, timestamp = now): Promise<unknown> =>
        broker.publish({ topic, key: keys[partition]!, value: bytes(text), timestamp })
      for (const text of ['old', 'older']) await put(text, 0, now - 3_600_000)
      for (const partition of [0, 1]) await put(`new ${partition}`, partition)
      const [first] = await broker.peek(topic, { partition: 0, limit: 1 })
      const beyond = first!.position.replace(/\d+$/, '1000000')
      await broker.createGroup(topic, 'beyond', { start: new Map([[0, beyond]]) })
      await broker.createGroup(topic, 'time', { start: new Date(now - 1_000) })
      await put('next', 0)
      const expected = { beyond: ['new 1', 'next'], time: ['new 0', 'new 1', 'next'] }
      for (const [group, texts] of Object.entries(expected)) {
        const { done } = await stage.listen(broker, topic, { group })
        await stage.untilRead(broker, topic, group)
        assert.deepEqual(done.map(({ text }) => text).toSorted(), texts, group)
      }
    },
  },
  {
    name: 'a partition that the topic has not, and a position that the broker cannot have given, are refused, and leave no group behind',
    needs: needs.history,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['there'] })
      await stage.publish(broker, keyed(topic, 2, 1))
      const [first] = await broker.peek(topic)
      const more = `${first!.position}-0-0-0-0`
      for (const start of [new Map([[1, first!.position]]), new Map([[0, more]]), new Map([[0, '9'.repeat(40)]])]) {
        await assert.rejects(broker.createGroup(topic, 'g', { start }), RangeError)
        await assert.rejects(
          broker.subscribe(topic, { group: 'g', start }, () => undefined),
          RangeError,
        )
        await assert.rejects(broker.resetGroup(topic, 'there', { to: start }), RangeError)
      }
      await assert.rejects(broker.peek(topic, { after: more }), RangeError)
      await assert.rejects(broker.peek(topic, { partition: 1 }), RangeError)
      assert.deepEqual(await broker.listGroups(topic), ['there'])
      assert.equal((await broker.lag(topic, 'there')).messages, 2)
    },
  },
  {
    name: 'without history a group begins when it is made, and asking for more is ERR_MESSAGING_UNSUPPORTED',
    needs: needs.noHistory,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const unsupported = { code: 'ERR_MESSAGING_UNSUPPORTED' }
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, value: bytes('kept') })
      for (const start of ['earliest', new Date(0), new Map([[0, '0']])] as const)
        await assert.rejects(broker.createGroup(topic, 'late', { start }), unsupported)
      const { peek, resetGroup } = broker
      await assert.rejects(peek(topic), unsupported)
      await assert.rejects(resetGroup(topic, 'g', { to: 'latest' }), unsupported)
      const late = await stage.listen(broker, topic, { group: 'late' })
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await broker.publish({ topic, value: bytes('new') })
      for (const group of ['late', 'g']) await stage.untilRead(broker, topic, group)
      assert.deepEqual(done.map(({ text }) => text).sort(), ['kept', 'new'])
      assert.deepEqual(
        late.done.map(({ text }) => text),
        ['new'],
      )
    },
  },
]
