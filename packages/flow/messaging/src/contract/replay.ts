import assert from 'node:assert/strict'
import type { DeadLetter } from '../letter.ts'
import { graveyard } from './graveyard.ts'
import { needs } from './needs.ts'
import { bytes, type Definition, once, quick, range, textOf } from './stage.ts'

const texts = (letters: readonly DeadLetter[]): string[] => letters.map(textOf)

/** Reading dead letters, and sending them again. */
export const replayCases: readonly Definition[] = [
  {
    name: 'letters are read page by page, filtered, with a budget, and reading consumes nothing',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 23)
      const dead = broker.deadLetters(topic, 'g')
      const seen: string[] = []
      for (let after: string | undefined; ;) {
        const { letters, next } = await dead.list({ limit: 5, ...(after === undefined ? {} : { after }) })
        assert.ok(letters.length <= 5)
        seen.push(...texts(letters))
        if (next === undefined) break
        after = next
      }
      assert.deepEqual(seen, range(23).map(String))
      const even = await dead.list({ filter: (letter) => Number(textOf(letter)) % 2 === 0, limit: 4 })
      assert.deepEqual(texts(even.letters), ['0', '2', '4', '6'])
      const scanned = await dead.list({ filter: (letter) => textOf(letter) === '22', scan: 10 })
      assert.deepEqual(texts(scanned.letters), [])
      const found = await dead.list({ filter: (letter) => textOf(letter) === '22', after: scanned.next! })
      assert.deepEqual(texts(found.letters), ['22'])
      await assert.rejects(dead.list({ limit: 0 }), RangeError)
      assert.equal(await dead.count(), 23)
      assert.equal((await broker.lag(topic, 'g')).messages, 0)
      assert.equal((await broker.lag(topic, 'other')).messages, 23)
    },
  },
  {
    name: 'discarded letters are gone, the others stay; both need to be named',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 6)
      const dead = broker.deadLetters(topic, 'g')
      const [first, second] = (await dead.list()).letters
      assert.deepEqual(await dead.discard({ ids: [first!.letterId, 'nobody'] }), [first!.letterId])
      assert.deepEqual(await dead.discard({ ids: [first!.letterId] }), [])
      await dead.discard({ filter: (letter) => Number(textOf(letter)) >= 4 })
      assert.deepEqual(texts((await dead.list()).letters), ['1', '2', '3'])
      assert.deepEqual(await dead.get(second!.letterId).then((letter) => letter?.letterId), second!.letterId)
      await assert.rejects(dead.discard({}), TypeError)
      await assert.rejects(dead.replay({}), TypeError)
    },
  },
  {
    name: 'a message that fails again after a reset is a letter again, whatever became of its old one',
    needs: needs.history,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 3)
      const dead = broker.deadLetters(topic, 'g')
      const [first, second] = (await dead.list()).letters
      await dead.discard({ ids: [first!.letterId] })
      await dead.replay({ ids: [second!.letterId] })
      const replayed = await stage.listen(broker, topic, { group: 'g' })
      await stage.until(() => replayed.done.length === 1, 'the replay')
      await replayed.subscription.close()
      await broker.resetGroup(topic, 'g', { to: 'earliest' })
      const again = await stage.listen(broker, topic, { group: 'g', retry: once }, ({ body }) => {
        if (textOf({ value: body }) !== '2') throw new Error('again')
      })
      await stage.untilRead(broker, topic, 'g')
      await again.subscription.close()
      assert.deepEqual(texts((await dead.list()).letters), ['2', '0', '1'])
      assert.equal(await dead.count(), 3)
      assert.deepEqual(
        (await dead.replay({ filter: (letter) => textOf(letter) === '1' })).map(({ outcome }) => outcome),
        ['replayed'],
      )
      const last = await stage.listen(broker, topic, { group: 'g' })
      await stage.until(() => last.done.length === 1, 'the second replay, which is not taken for the first')
      assert.deepEqual((await dead.discard({ filter: () => true })).length, 3, 'also the one that was replayed')
      assert.deepEqual((await dead.list()).letters, [])
      assert.deepEqual(await dead.discard({ filter: () => true }), [])
    },
  },
  {
    name: 'a replay goes to its group alone, with id, key, bytes and headers, and is marked',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 5)
      const other = await stage.listen(broker, topic, { group: 'other' })
      const broadcast = await stage.listen(broker, topic, {})
      await stage.untilRead(broker, topic, 'other')
      const dead = broker.deadLetters(topic, 'g')
      const { letters } = await dead.list()
      const ids = [letters[1]!.letterId, letters[3]!.letterId]
      const outcomes = await dead.replay({ ids: [...ids, 'nobody'] })
      assert.deepEqual(Object.fromEntries(outcomes.map(({ letterId, outcome }) => [letterId, outcome])), {
        [ids[0]!]: 'replayed',
        [ids[1]!]: 'replayed',
        nobody: 'not-found',
      })
      const seen: unknown[] = []
      await stage.listen(broker, topic, { group: 'g' }, (message, { partition, position }) => {
        seen.push([message.id, message.topic, message.key, textOf(message), { ...message.headers }, message.timestamp, partition, position, message.attempt])
      })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        seen,
        [letters[1]!, letters[3]!].map(({ id, key, headers, timestamp, origin, value }) => [
          id,
          topic,
          key,
          textOf({ value }),
          { ...headers },
          timestamp,
          origin.partition,
          origin.position,
          1,
        ]),
      )
      assert.deepEqual(texts((await dead.list()).letters), ['0', '2', '4'])
      assert.deepEqual(
        (await dead.replay({ ids })).map(({ outcome }) => outcome),
        ['not-found', 'not-found'],
        'marked',
      )
      assert.equal(other.runs.length, 5)
      assert.equal(broadcast.runs.length, 0)
    },
  },
  {
    name: 'a replay can be tried dry, filtered, limited, run from the newest, slowed down and stopped',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 8)
      const dead = broker.deadLetters(topic, 'g')
      const filter = (letter: DeadLetter): boolean => Number(textOf(letter)) < 6
      const dry = await dead.replay({ filter, dryRun: true })
      assert.deepEqual(
        dry.map(({ outcome }) => outcome),
        range(6).map(() => 'would-replay'),
      )
      assert.equal(await dead.count(), 8)
      assert.equal((await broker.lag(topic, 'g')).messages, 0, 'a dry run sends nothing')
      await dead.replay({ filter, order: 'newest', limit: 2 })
      assert.deepEqual(texts((await dead.list()).letters), ['0', '1', '2', '3', '6', '7'])
      const startedAt = stage.clock.monotonic()
      await dead.replay({ filter: () => true, limit: 3, ratePerSecond: 50 })
      // Two waits of 20 ms between three; timers may fire a moment early.
      assert.ok(stage.clock.monotonic() - startedAt >= 36, 'slower than 50 a second')
      const stop = new AbortController()
      const reason = new Error('enough')
      const stopped = dead.replay({ filter: () => true, ratePerSecond: 0.01, signal: stop.signal })
      await stage.until(async () => (await dead.count()) === 2, 'the first of them')
      stop.abort(reason)
      await assert.rejects(stopped, reason)
      await assert.rejects(dead.replay({ filter, ratePerSecond: 0 }), RangeError)
      assert.deepEqual(texts((await dead.list()).letters), ['6', '7'].slice(-2))
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(done.map(({ text }) => text).sort(), ['0', '1', '2', '3', '4', '5'])
    },
  },
  {
    name: 'another process goes on with a replay where one ended, and nothing is sent twice',
    needs: needs.sever,
    run: async (stage) => {
      const client = await stage.client()
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 10, 5)
      const dead = broker.deadLetters(topic, 'g')
      const stop = new AbortController()
      client.broker
        .deadLetters(topic, 'g')
        .replay({ filter: () => true, ratePerSecond: 100, signal: stop.signal })
        .catch(() => [])
      await stage.until(async () => (await dead.count()) <= 6, 'some of them')
      await stage.sever(client)
      stop.abort()
      await dead.replay({ filter: () => true })
      assert.equal(await dead.count(), 0)
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      const ids = done.map(({ id }) => id)
      assert.equal(new Set(ids).size, 10, 'none is lost')
      // The one between its sending and its mark may be there twice where the broker cannot tell.
      assert.ok(ids.length <= (stage.capabilities.dedupe ? 10 : 11))
    },
  },
  {
    name: 'two replays at once: what one has sent the other does not send again, though it had chosen it',
    run: async (stage) => {
      const one = await stage.broker()
      const two = await stage.broker()
      const topic = await graveyard(stage, one, 3)
      const first = one.deadLetters(topic, 'g')
      const second = two.deadLetters(topic, 'g')
      const order: string[] = []
      const outcomes = await first.replay({
        filter: () => true,
        edit: async (letter) => {
          order.push(textOf(letter))
          if (order.length > 1) return {}
          const others = await second.replay({ filter: (other) => textOf(other) !== '1' })
          assert.deepEqual(
            others.map(({ outcome }) => outcome),
            ['replayed', 'replayed'],
          )
          await stage.clock.sleep(1_100)
          return {}
        },
      })
      assert.deepEqual(
        outcomes.map(({ outcome }) => outcome),
        ['replayed-elsewhere', 'replayed', 'replayed-elsewhere'],
      )
      assert.deepEqual(order, ['0', '1'], 'what another sent is not edited')
      assert.equal(await first.count(), 0)
      const { done } = await stage.listen(one, topic, { group: 'g' })
      await stage.untilRead(one, topic, 'g')
      assert.deepEqual(done.map(({ text }) => text).sort(), ['0', '1', '2'])
    },
  },
  {
    name: 'a replay that fails again is a new letter, counted, until maxReplays stops the loop',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 1)
      const dead = broker.deadLetters(topic, 'g')
      const { runs } = await stage.listen(broker, topic, { group: 'g', retry: { ...quick, maxAttempts: 2 } }, () => {
        throw new Error('still')
      })
      const seen = new Set<string>()
      for (const replays of range(3)) {
        const [letter] = (await dead.list()).letters
        assert.equal(letter!.replays, replays)
        seen.add(letter!.letterId)
        const [outcome] = await dead.replay({ filter: () => true, maxReplays: 3 })
        assert.equal(outcome!.outcome, 'replayed')
        await stage.until(async () => (await dead.list()).letters[0]?.replays === replays + 1, 'the next letter')
      }
      assert.equal(seen.size, 3)
      const [stopped] = await dead.replay({ filter: () => true, maxReplays: 3 })
      assert.equal(stopped!.outcome, 'too-many-replays')
      assert.equal(await dead.count(), 1)
      assert.equal(runs.length, 6)
      const [letter] = (await dead.list()).letters
      assert.deepEqual([letter!.id, letter!.attempts, letter!.origin.topic], ['m0', 2, topic], 'attempts are counted anew')
    },
  },
  {
    name: 'letters at maxReplays do not use up the limit: those behind them are reached',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 5)
      const dead = broker.deadLetters(topic, 'g')
      const old = (await dead.list({ limit: 2 })).letters
      const outcomes = await dead.replay({ filter: () => true, limit: 2, dryRun: true, maxReplays: 0 })
      assert.deepEqual(
        outcomes.map(({ outcome }) => outcome),
        range(5).map(() => 'too-many-replays'),
      )
      const { subscription } = await stage.listen(broker, topic, { group: 'g', retry: once }, () => {
        throw new Error('again')
      })
      await dead.replay({ ids: old.map(({ letterId }) => letterId) })
      await stage.until(async () => (await dead.list()).letters.filter(({ replays }) => replays === 1).length === 2, 'two that failed again')
      await subscription.close()
      const newest = await dead.replay({ filter: () => true, order: 'newest', limit: 2, maxReplays: 1 })
      assert.deepEqual(
        newest.map(({ outcome }) => outcome),
        ['too-many-replays', 'too-many-replays', 'replayed', 'replayed'],
      )
      assert.deepEqual(texts((await dead.list()).letters), ['2', '0', '1'])
    },
  },
  {
    name: 'a letter that was sent but could not be marked says so, the rest has failed, and another replay ends it',
    run: async (stage) => {
      let marks = 0
      const refused = new Error('no marks today')
      const { broker } = await stage.client({}, (driver) => ({
        ...driver,
        log: { ...driver.log, mark: (...args) => (++marks === 2 ? Promise.reject(refused) : driver.log.mark(...args)) },
      }))
      const topic = await graveyard(stage, broker, 4)
      const dead = broker.deadLetters(topic, 'g')
      const outcomes = await dead.replay({ filter: () => true })
      assert.deepEqual(
        outcomes.map(({ outcome, error }) => [outcome, error]),
        [
          ['replayed', undefined],
          ['replayed', refused],
          ['failed', refused],
          ['failed', refused],
        ],
      )
      assert.deepEqual(texts((await dead.list()).letters), ['1', '2', '3'])
      await dead.replay({ filter: () => true })
      assert.equal(await dead.count(), 0)
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(done.map(({ text }) => text).sort(), stage.capabilities.dedupe ? ['0', '1', '2', '3'] : ['0', '1', '1', '2', '3'])
    },
  },
  {
    name: 'a letter of which a crash left two copies is one letter, and is replayed with both',
    run: async (stage) => {
      const { broker } = await stage.client({}, (driver) => ({
        ...driver,
        publish: async (messages, options) => {
          const results = await driver.publish(messages, options)
          await driver.publish(
            messages.filter((message) => message.topic.endsWith('.dlq')),
            options,
          )
          return results
        },
      }))
      const topic = await graveyard(stage, broker, 2)
      const dead = broker.deadLetters(topic, 'g')
      assert.equal(await dead.count(), 2)
      const outcomes = await dead.replay({ filter: (letter) => textOf(letter) === '0' })
      assert.deepEqual(
        outcomes.map(({ outcome }) => outcome),
        ['replayed'],
      )
      assert.deepEqual(texts((await dead.list()).letters), ['1'])
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        done.map(({ text }) => text),
        ['0'],
      )
    },
  },
  {
    name: 'a filter that gives a promise is refused: it would choose every letter',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await stage.listen(broker, topic, { group: 'g', retry: once }, () => assert.fail('always'))
      await stage.publish(broker, [{ topic, value: bytes('x') }])
      const dead = broker.deadLetters(topic, 'g')
      await stage.until(async () => (await dead.count()) === 1, 'the letter')
      const filter = (async () => false) as never
      for (const call of [() => dead.list({ filter }), () => dead.replay({ filter }), () => dead.discard({ filter })])
        await assert.rejects(call(), { name: 'TypeError', message: /got a promise/ })
      assert.equal(await dead.count(), 1)
    },
  },
  {
    name: 'a message that was published with a dedupeId can be replayed within its window',
    needs: needs.dedupe,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      let fixed = false
      const { done } = await stage.listen(broker, topic, { group: 'g', retry: once }, () => {
        if (!fixed) throw new Error('not yet')
      })
      await broker.publish({ topic, value: bytes('x'), id: 'same', dedupeId: 'same' })
      const dead = broker.deadLetters(topic, 'g')
      await stage.until(async () => (await dead.count()) === 1, 'the letter')
      fixed = true
      await dead.replay({ filter: () => true })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(done.length, 1)
      assert.equal((await broker.publish({ topic, value: bytes('x'), dedupeId: 'same' })).duplicate, true)
    },
  },
]
