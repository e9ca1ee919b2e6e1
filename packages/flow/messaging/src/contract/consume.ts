import assert from 'node:assert/strict'
import { json, type Message } from '../message.ts'
import { needs } from './needs.ts'
import { beforeCut, bytes, keyed, quick, range, textOf, type Definition } from './stage.ts'

/** What a handler may do, and what happens then. */
export const consumeCases: readonly Definition[] = [
  {
    name: 'what was not acknowledged comes again, with attempt one higher: a throw, a rejection, ctx.retry',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const [id] = await stage.publish(broker, [{ topic, key: 'k', value: bytes('x'), headers: { a: 'b' } }])
      const contexts: [number, number][] = []
      const { runs, done } = await stage.listen(broker, topic, { group: 'g', retry: { ...quick, maxAttempts: 4 } }, (message, context) => {
        contexts.push([message.attempt, context.attempt])
        assert.equal(message.headers['a'], 'b')
        if (message.attempt === 1) throw new Error('thrown')
        if (message.attempt === 2) return Promise.reject(new Error('rejected'))
        if (message.attempt === 3) context.retry()
        return undefined
      })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(contexts, [
        [1, 1],
        [2, 2],
        [3, 3],
        [4, 4],
      ])
      assert.ok(runs.every((run) => run.id === id))
      assert.equal(done.at(-1)?.attempt, 4)
      assert.equal(await broker.deadLetters(topic, 'g').count(), 0)
    },
  },
  {
    name: 'a storm of failures in three groups loses nothing and doubles nothing',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const groups = ['one', 'two', 'three']
      const retry = { initialDelayMs: 2, maxDelayMs: 4, maxAttempts: 10 }
      const n = Math.min(stage.n, 300)
      const finished = groups.map(() => [] as string[])
      for (const [g, group] of groups.entries())
        await stage.listen(broker, topic, { group, concurrency: 8, order: g === 2 ? 'none' : 'key', retry }, (message) => {
          if (message.attempt <= 3 + g) throw new Error('not yet')
          finished[g]!.push(message.id)
        })
      const ids = await stage.publish(broker, keyed(topic, n, 25))
      for (const group of groups) await stage.untilRead(broker, topic, group)
      for (const done of finished) assert.deepEqual(done.sort(), [...ids].sort())
    },
  },
  {
    name: 'whatever is thrown, synchronously or not, counts as a failure and ends nothing',
    run: async (stage) => {
      const errors: unknown[] = []
      const broker = await stage.broker({ hooks: { onError: ({ error }) => void errors.push(error) } })
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g', 'after'] })
      const thrown: unknown[] = [undefined, null, 'text', 42, { odd: true }, Symbol('s'), new Error('e'), Object.create(null), [], () => undefined]
      await stage.publish(
        broker,
        range(thrown.length * 2).map((i) => ({ topic, key: String(i), value: bytes(String(i)) })),
      )
      await broker.subscribe(topic, { group: 'g', retry: { ...quick, maxAttempts: 1 } }, (message) => {
        const i = Number(textOf(message))
        const what = thrown[i % thrown.length]
        if (i < thrown.length) throw what
        return Promise.reject(what)
      })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(errors.length, thrown.length * 2)
      assert.equal(await broker.deadLetters(topic, 'g').count(), thrown.length * 2)
      const after = await stage.listen(broker, topic, { group: 'after' })
      await stage.until(() => after.done.length === thrown.length * 2, 'another group to be untouched')
    },
  },
  {
    name: 'what cannot be decoded is a dead letter at once, and the stream goes on',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const bodies = ['{"n":1}', '{"n":', '\u00ff', '{"n":2}', '{"n":"no number"}', '{"n":3}']
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(
        broker,
        bodies.map((body) => ({ topic, key: 'k', value: body === '\u00ff' ? Uint8Array.from([0xff]) : bytes(body) })),
      )
      const seen: unknown[] = []
      const schema = {
        '~standard': {
          version: 1 as const,
          vendor: 'contract',
          validate: (value: unknown) =>
            typeof (value as { n: unknown }).n === 'number' ? { value: value as { n: number } } : { issues: [{ message: 'must be a number', path: ['n'] }] },
        },
      }
      await broker.subscribe(topic, { group: 'g', codec: json(schema), retry: quick }, (message) => void seen.push(message.body.n))
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(seen, [1, 2, 3])
      const { letters } = await broker.deadLetters(topic, 'g').list()
      assert.deepEqual(
        letters.map(({ error, attempts, value }) => [error.code, attempts, value.length]),
        [
          ['ERR_MESSAGING_DECODE', 1, 5],
          ['ERR_MESSAGING_DECODE', 1, 1],
          ['ERR_MESSAGING_DECODE', 1, 17],
        ],
      )
      assert.match(letters[2]!.error.message, /n: must be a number/)
    },
  },
  {
    name: 'ctx.skip is done with: no retry, no dead letter',
    run: async (stage) => {
      const outcomes: string[] = []
      const broker = await stage.broker({ hooks: { onSettled: ({ outcome }) => void outcomes.push(outcome) } })
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 3, 1))
      const { runs } = await stage.listen(broker, topic, { group: 'g' }, (message, context) => {
        if (textOf(message) === '1') context.skip()
      })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(runs.length, 3)
      assert.deepEqual(outcomes, ['acked', 'skipped', 'acked'])
      assert.equal(await broker.deadLetters(topic, 'g').count(), 0)
    },
  },
  {
    name: 'after a dead letter its key goes on',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 3, 1))
      const { runs } = await stage.listen(broker, topic, { group: 'g', retry: { ...quick, maxAttempts: 2 } }, (message) => {
        if (textOf(message) === '0') throw new Error('always')
      })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        runs.map(({ text }) => text),
        ['0', '0', '1', '2'],
      )
      assert.equal(await broker.deadLetters(topic, 'g').count(), 1)
    },
  },
  {
    name: 'a handler that takes too long has its signal aborted, and its run counts as failed',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 2, 1))
      const reasons: unknown[] = []
      const { runs, done } = await stage.listen(broker, topic, { group: 'g', handlerTimeoutMs: 20 }, (message, { signal }) => {
        if (textOf(message) !== '0' || message.attempt > 1) return undefined
        return new Promise((_resolve, reject) =>
          signal.addEventListener('abort', () => {
            reasons.push((signal.reason as { code: string }).code)
            reject(signal.reason as Error)
          }),
        )
      })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(reasons, ['ERR_MESSAGING_HANDLER_TIMEOUT'])
      assert.deepEqual(
        runs.map(({ text, attempt }) => `${text}/${attempt}`),
        ['0/1', '0/2', '1/1'],
      )
      assert.equal(done.length, 2)
    },
  },
  {
    name: 'a handler that ignores its signal is stuck: counted, told, its slot taken, its message settled as failed; until it ends',
    run: async (stage) => {
      const stuck: unknown[] = []
      const broker = await stage.broker({ hooks: { onStuck: ({ message }) => void stuck.push(textOf({ value: message.value })) } })
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(broker, [
        { topic, key: 'k', value: bytes('hangs') },
        { topic, key: 'k', value: bytes('same key') },
        { topic, key: 'other', value: bytes('other key') },
      ])
      const gate = stage.gate()
      let running = 0
      const { runs, done } = await stage.listen(
        broker,
        topic,
        { group: 'g', concurrency: 2, handlerTimeoutMs: 15, abortGraceMs: 15, retry: { ...quick, maxAttempts: 1 } },
        async (message) => {
          assert.ok(++running <= 2)
          if (textOf(message) === 'hangs') await gate.promise
          running--
        },
      )
      await stage.until(() => broker.stats().stuck === 1, 'a stuck handler')
      assert.deepEqual(stuck, ['hangs'])
      await stage.until(async () => (await broker.deadLetters(topic, 'g').count()) === 1, 'its message to be settled as failed')
      await stage.until(() => done.length === 1, 'the other key')
      assert.equal((await broker.health()).status, 'degraded')
      assert.deepEqual(runs.map(({ text }) => text).sort(), ['hangs', 'other key'], 'the lane waits')
      gate.resolve()
      await stage.untilRead(broker, topic, 'g')
      assert.equal(broker.stats().stuck, 0)
      assert.equal((await broker.health()).status, 'ok')
      assert.equal(runs.at(-1)!.text, 'same key')
      assert.equal(await broker.deadLetters(topic, 'g').count(), 1)
      assert.equal((await broker.deadLetters(topic, 'g').list()).letters[0]!.error.code, 'ERR_MESSAGING_HANDLER_TIMEOUT')
    },
  },
  {
    name: 'a message that ends its process is a dead letter after maxCrashes, and its neighbours are not',
    needs: needs.sever,
    leases: true,
    run: async (stage) => {
      const topic = stage.topic()
      const observer = await stage.broker()
      await observer.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(
        observer,
        ['good', 'poison', 'fine'].map((text) => ({ topic, key: text, value: bytes(text) })),
      )
      const gate = stage.gate()
      const done: string[] = []
      const attempts: number[] = []
      // Of each life: what ran when it ended. The first one is before anybody is suspect.
      for (let life = 1; life <= 4; life++) {
        const client = await stage.client()
        let crashed = false
        await stage.listen(client.broker, topic, { group: 'g', concurrency: 4, flushMs: 5, maxCrashes: 3 }, async (message) => {
          if (textOf(message) === 'poison') {
            attempts.push(message.attempt)
            crashed = true
            await gate.promise
            throw new Error('a zombie')
          }
          // Of the first life nothing is stored: good and fine are in flight with the poison.
          if (life === 1) await gate.promise
          else done.push(textOf(message))
        })
        await stage.until(() => crashed, `the poison in life ${life}`)
        await stage.sever(client)
      }
      const last = await stage.listen(observer, topic, { group: 'g', maxCrashes: 3 })
      await stage.untilRead(observer, topic, 'g')
      assert.ok(!last.runs.some(({ text }) => text === 'poison'), 'not started once more')
      const { letters } = await observer.deadLetters(topic, 'g').list()
      assert.deepEqual(
        letters.map(({ value, error }) => [textOf({ value }), error.code]),
        [['poison', 'ERR_MESSAGING_CRASH_LOOP']],
      )
      assert.deepEqual([...new Set(attempts)], [1], 'runs that ended with the process are no attempts')
      assert.ok([...done, ...last.done.map(({ text }) => text)].includes('good'))
      assert.ok(last.done.some(({ text }) => text === 'fine') || done.includes('fine'))
    },
  },
  {
    name: 'what a slow process held when it ended is no crash of theirs: suspects that are done are done',
    needs: needs.sever,
    leases: true,
    run: async (stage) => {
      const { client, broker, topic, gate } = await beforeCut(stage, 30)
      const first = await stage.listen(client.broker, topic, { group: 'g', concurrency: 30 }, () => gate.promise)
      await stage.until(() => first.runs.length === 30, 'all to be in flight')
      await stage.sever(client)
      let running = 0
      const second = await stage.listen(broker, topic, { group: 'g', concurrency: 30, maxCrashes: 1 }, async () => {
        assert.equal(++running, 1, 'suspects run one at a time')
        await stage.clock.sleep(1)
        running--
      })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(second.done.length, 30)
      assert.equal(await broker.deadLetters(topic, 'g').count(), 0)
    },
  },
  {
    name: 'the message a handler gets is complete: topic, partition and position stay the same over its runs',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 2, groups: ['g'] })
      await stage.publish(broker, keyed(topic, 6, 2))
      const seen: { message: Message; group: string | undefined; partition: number; position: string }[] = []
      await stage.listen(broker, topic, { group: 'g' }, (message, { group, partition, position, attempt, signal }) => {
        seen.push({ message, group, partition, position })
        assert.equal(attempt, message.attempt)
        assert.equal(signal.aborted, false)
        assert.equal(message.body, message.value)
        if (attempt === 1) throw new Error('once')
      })
      await stage.untilRead(broker, topic, 'g')
      for (const { message, group, partition, position } of seen) {
        const first = seen.find((one) => one.message.id === message.id)!
        assert.deepEqual([message.topic, group, partition, position], [topic, 'g', first.partition, first.position])
      }
      assert.equal(new Set(seen.map(({ partition, position }) => `${partition}/${position}`)).size, 6)
    },
  },
]
