import assert from 'node:assert/strict'
import { failPublish } from '../faults.ts'
import { needs } from './needs.ts'
import { bytes, type Definition, keyed, quick, range, textOf } from './stage.ts'

/** Delays of messages and of retries. */
export const delayCases: readonly Definition[] = [
  {
    name: 'the delay of ctx.retry is waited out, in the lane and outside of it, and the order of the lane is kept or left as asked',
    needs: needs.delay,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['held', 'left'] })
      const delayMs = 60
      for (const group of ['held', 'left']) {
        const order: string[] = []
        let askedAt = 0
        let cameAt = 0
        const { subscription } = await stage.listen(
          broker,
          topic,
          { group, retry: { ...quick, onRetry: group === 'held' ? 'hold' : 'leave-order' } },
          (message, context) => {
            const text = textOf(message)
            if (text === 'a' && message.attempt === 1) {
              askedAt = stage.clock.now()
              return context.retry({ delayMs })
            }
            if (text === 'a') cameAt = stage.clock.now()
            order.push(`${text}${message.attempt}`)
          },
        )
        if (group === 'held')
          await stage.publish(
            broker,
            ['a', 'b'].map((text) => ({ topic, key: 'k', value: bytes(text) })),
          )
        await stage.until(() => order.length === 2, 'both')
        assert.deepEqual(order, group === 'held' ? ['a2', 'b1'] : ['b1', 'a2'])
        // Clocks of two machines, and timers that fire a moment early.
        assert.ok(cameAt - askedAt >= delayMs - 2, `asked for ${delayMs} ms, came after ${cameAt - askedAt}`)
        await subscription.close()
      }
    },
  },
  {
    name: 'a delayed message comes neither early nor later than the declared resolution and 250 ms',
    needs: needs.delay,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const delays = [0, 40, 300, 120, 40, 700, 1]
      const came = new Map<string, number>()
      await stage.listen(broker, topic, { group: 'g', concurrency: 10 }, (message) => void came.set(textOf(message), stage.clock.now()))
      const due = new Map<string, number>()
      const publishing = delays.map((delayMs, i) => {
        due.set(String(i), stage.clock.now() + delayMs)
        return broker.publish({ topic, key: String(i), value: bytes(String(i)), ...(i % 2 ? { delayMs } : { deliverAt: stage.clock.now() + delayMs }) })
      })
      await Promise.all(publishing)
      const bound = stage.capabilities.delay!.resolutionMs + 250 + 700
      await stage.within(bound, 'all delayed messages', () => stage.until(() => came.size === delays.length, 'all delayed messages'))
      for (const [text, at] of came) assert.ok(at >= due.get(text)! - 1, `message ${text} came ${due.get(text)! - at} ms early`)
    },
  },
  {
    name: 'a delay beyond what the broker can is a RangeError, and nothing is stored',
    needs: needs.delay,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const { maxMs } = stage.capabilities.delay!
      for (const delayMs of [maxMs + 60_000, Number.NaN, Number.POSITIVE_INFINITY])
        await assert.rejects(broker.publish({ topic, value: bytes(''), delayMs }), RangeError)
      assert.equal((await broker.lag(topic, 'g')).messages, 0)
    },
  },
  {
    name: 'a delay is ERR_MESSAGING_UNSUPPORTED where the broker has none, and so is leaving the order',
    needs: needs.noDelay,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const unsupported = { code: 'ERR_MESSAGING_UNSUPPORTED' }
      await assert.rejects(broker.publish({ topic, value: bytes(''), delayMs: 10_000 }), unsupported)
      await assert.rejects(
        broker.subscribe(topic, { group: 'g', retry: { onRetry: 'leave-order' } }, () => undefined),
        unsupported,
      )
      // Under 'none' retries then hold their slot.
      await broker.publish({ topic, value: bytes('') })
      const { done } = await stage.listen(broker, topic, { group: 'none', order: 'none' }, (message) => {
        if (message.attempt === 1) throw new Error('once')
      })
      await broker.publish({ topic, value: bytes('') })
      await stage.untilRead(broker, topic, 'none')
      assert.ok(done.every(({ attempt }) => attempt === 2))
    },
  },
  {
    name: 'attempts count on when a retry leaves the order, and all runs together count towards maxAttempts',
    needs: needs.delay,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const [id] = await stage.publish(broker, [{ topic, key: 'k', value: bytes('x'), headers: { a: 'b' } }])
      const seen: unknown[] = []
      await stage.listen(
        broker,
        topic,
        { group: 'g', retry: { ...quick, maxAttempts: 5, onRetry: 'leave-order', inlineAttempts: 2 } },
        (message, { partition, position }) => {
          seen.push([message.id, message.topic, message.attempt, { ...message.headers }, message.timestamp, partition, position])
          throw new Error('always')
        },
      )
      await stage.until(async () => (await broker.deadLetters(topic, 'g').count()) === 1, 'the dead letter')
      const [, , , , timestamp, partition, position] = seen[0] as unknown[]
      assert.deepEqual(
        seen,
        range(5).map((i) => [id, topic, i + 1, { a: 'b' }, timestamp, partition, position]),
      )
      const [letter] = (await broker.deadLetters(topic, 'g').list()).letters
      assert.deepEqual([letter!.attempts, letter!.origin], [5, { topic, partition, position }])
    },
  },
  {
    name: 'a retry of a group that was deleted and made again is not taken for that of the one before, whose epochs it repeats',
    needs: (c, o) => needs.delay(c, o) ?? needs.dedupe(c, o) ?? needs.history(c, o),
    run: async (stage) => {
      const { broker, driver } = await stage.client()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await broker.publish({ topic, value: bytes('x') })
      for (const life of ['first', 'second']) {
        const { done, subscription } = await stage.listen(
          broker,
          topic,
          { group: 'g', start: 'earliest', retry: { ...quick, onRetry: 'leave-order' } },
          ({ attempt }) => {
            if (attempt === 1) throw new Error(life)
          },
        )
        await stage.untilRead(broker, topic, 'g')
        assert.equal(done.length, 1, life)
        await subscription.close()
        // As when the process ends before the group's private source is deleted too.
        await driver.admin.deleteGroup(topic, 'g')
      }
    },
  },
  {
    name: 'while the retry copy cannot be stored, the message stays with its group; when nobody knows, it may come twice, never not',
    needs: needs.delay,
    run: async (stage) => {
      let fault: 'rejected' | 'unknown' | undefined = 'rejected'
      const { broker } = await stage.client({}, (driver) => {
        const refusing = failPublish(driver, { when: ({ topic }) => topic.endsWith('.retry'), status: 'rejected' })
        const silent = failPublish(driver, { when: ({ topic }) => topic.endsWith('.retry'), status: 'unknown' })
        return {
          ...driver,
          publish: (messages, options) => (fault === 'rejected' ? refusing : fault === 'unknown' ? silent : driver).publish(messages, options),
        }
      })
      const topic = stage.topic()
      const ids = await stage.publish(broker, keyed(topic, 3, 3))
      const { runs, done } = await stage.listen(broker, topic, { group: 'g', order: 'none', concurrency: 3 }, (message) => {
        if (message.attempt === 1) throw new Error('once')
      })
      await stage.until(() => runs.length === 3, 'the first runs')
      await stage.clock.sleep(60)
      assert.equal((await broker.lag(topic, 'g')).messages, 3)
      fault = 'unknown'
      await stage.clock.sleep(120)
      fault = undefined
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual([...new Set(done.map(({ id }) => id))].sort(), [...ids].sort())
    },
  },
  {
    name: 'delays survive the restart of everybody, and fire once, in the order of their times',
    needs: needs.delay,
    run: async (stage) => {
      const publisher = await stage.broker()
      const topic = stage.topic()
      await publisher.createTopic(topic, { partitions: 1, groups: ['g'] })
      const n = Math.min(stage.n, 100)
      const now = stage.clock.now()
      // The first is due well after the last is stored.
      const dueOf = (i: number): number => now + 400 + ((i * 37) % n) * 4
      await stage.publish(
        publisher,
        range(n).map((i) => ({ topic, key: 'k', value: bytes(String(i)), deliverAt: dueOf(i) })),
      )
      await publisher.close()
      const second = await stage.broker()
      const first = await stage.listen(second, topic, { group: 'g' })
      await stage.until(() => first.done.length >= n / 4, 'a quarter of them')
      await second.close()
      const third = await stage.broker()
      const came: number[] = []
      const rest = await stage.listen(third, topic, { group: 'g' }, () => void came.push(stage.clock.now()))
      await stage.untilRead(third, topic, 'g')
      const order = [...first.done, ...rest.done].map(({ text }) => Number(text))
      assert.equal(order.length, n)
      assert.equal(new Set(order).size, n)
      rest.done.forEach(({ text }, i) => assert.ok(came[i]! >= dueOf(Number(text)) - 1, `${text} came early`))
      const { resolutionMs } = stage.capabilities.delay!
      for (const [i, one] of order.entries())
        for (const later of order.slice(i + 1)) assert.ok(dueOf(one) <= dueOf(later) + resolutionMs, `${one} came before ${later}, which was due earlier`)
    },
  },
  {
    name: 'a retry that waits outside of the order survives the restart of its consumer, with its attempt',
    needs: needs.delay,
    run: async (stage) => {
      const topic = stage.topic()
      const first = await stage.broker()
      await first.createTopic(topic, { groups: ['g'] })
      await stage.publish(first, keyed(topic, 3, 3))
      const { runs } = await stage.listen(first, topic, { group: 'g', order: 'none', concurrency: 3 }, (_message, context) => context.retry({ delayMs: 150 }))
      await stage.until(async () => runs.length === 3 && first.stats().retried === 3, 'all to leave their place')
      await first.close()
      const second = await stage.broker()
      assert.equal((await second.lag(topic, 'g')).messages, 3)
      const { done } = await stage.listen(second, topic, { group: 'g', order: 'none' })
      await stage.untilRead(second, topic, 'g')
      assert.deepEqual(
        done.map(({ attempt }) => attempt),
        [2, 2, 2],
      )
    },
  },
]
