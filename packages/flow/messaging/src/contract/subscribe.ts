import assert from 'node:assert/strict'
import type { HandlerContext } from '../job.ts'
import type { Pulled } from '../pull.ts'
import type { Middleware } from '../runner.ts'
import { bytes, type Definition, keyed, quick, textOf } from './stage.ts'

/** Broadcasts, several topics, middleware, hooks, statistics and pull. */
export const subscribeCases: readonly Definition[] = [
  {
    name: 'a broadcast hears everything from now on and nothing from before; after its last failure it goes on',
    run: async (stage) => {
      const errors: unknown[] = []
      const broker = await stage.broker({ hooks: { onError: ({ error }) => void errors.push(error) } })
      const other = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['keeper'] })
      await broker.publish({ topic, key: 'k', value: bytes('before') })
      const first = await stage.listen(broker, topic, {}, (message) => {
        if (textOf(message) === '1') throw new Error('always')
      })
      const second = await stage.listen(other, topic)
      await stage.publish(other, keyed(topic, 4, 1))
      await stage.until(() => second.done.length === 4 && first.done.length === 3, 'both listeners')
      assert.deepEqual(
        first.runs.map(({ text, attempt }) => `${text}/${attempt}`),
        ['0/1', '1/1', '1/2', '1/3', '2/1', '3/1'],
      )
      assert.deepEqual(
        second.done.map(({ text }) => text),
        ['0', '1', '2', '3'],
      )
      assert.equal(errors.length, 3)
      assert.deepEqual(await broker.listGroups(topic), ['keeper'], 'nothing of a broadcast stays')
    },
  },
  {
    name: 'a broadcast has no dead letters and no start',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const handler = (): void => undefined
      await assert.rejects(broker.subscribe(topic, { deadLetter: true }, handler), TypeError)
      await assert.rejects(broker.subscribe(topic, { start: 'earliest' }, handler), TypeError)
      await assert.rejects(broker.subscribe(topic, { retry: { onRetry: 'leave-order' } }, handler), TypeError)
      await assert.rejects(broker.subscribe([], { group: 'g' }, handler), RangeError)
      let context: HandlerContext | undefined
      await stage.listen(broker, topic, {}, (_message, ctx) => {
        context = ctx
        assert.throws(() => ctx.deadLetter('no group'), TypeError)
      })
      await broker.publish({ topic, value: bytes('') })
      await stage.until(() => context !== undefined, 'the message')
      assert.equal(context!.group, undefined)
    },
  },
  {
    name: 'one subscription reads several topics, each with its own name and origin',
    run: async (stage) => {
      const broker = await stage.broker()
      const topics = [stage.topic(), stage.topic('b'), stage.topic('c')]
      const { done } = await stage.listen(broker, topics, { group: 'g', concurrency: 3 })
      for (const topic of topics) await stage.publish(broker, keyed(topic, 10, 2))
      for (const topic of topics) await stage.untilRead(broker, topic, 'g')
      for (const topic of topics) assert.equal(done.filter((one) => one.topic === topic).length, 10)
    },
  },
  {
    name: 'middleware wraps every handler, the first outermost, and may answer itself',
    run: async (stage) => {
      const steps: string[] = []
      const layer =
        (name: string): Middleware =>
        (next) =>
        async (message, context) => {
          steps.push(`${name}>`)
          if (name === 'gate' && textOf(message) === 'stop') return
          await next(message, context)
          steps.push(`<${name}`)
        }
      const broker = await stage.broker({ middleware: [layer('broker')] })
      const topic = stage.topic()
      await broker.subscribe(topic, { group: 'g', middleware: [layer('gate'), layer('inner')] }, () => void steps.push('handler'))
      await broker.publish({ topic, value: bytes('go') })
      await stage.until(() => steps.at(-1) === '<broker', 'the first')
      await broker.publish({ topic, value: bytes('stop') })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(steps, ['broker>', 'gate>', 'inner>', 'handler', '<inner', '<gate', '<broker', 'broker>', 'gate>', '<broker'])
    },
  },
  {
    name: 'hooks are told of everything, and one that throws changes nothing',
    run: async (stage) => {
      const told: string[] = []
      const warnings: unknown[] = []
      const onWarning = (warning: Error): void => void (warning.name === 'MessagingWarning' && warnings.push(warning))
      process.on('warning', onWarning)
      const throwing = (name: string) => (): void => {
        told.push(name)
        throw new Error(`from ${name}`)
      }
      const broker = await stage.broker({
        hooks: { onPublish: throwing('publish'), onDelivery: throwing('delivery'), onSettled: throwing('settled'), onError: throwing('error') },
      })
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, value: bytes('') })
      await stage.listen(broker, topic, { group: 'g' }, (message) => {
        if (message.attempt === 1) throw new Error('once')
      })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(told.slice(-5), ['publish', 'delivery', 'error', 'delivery', 'settled'])
      await stage.until(() => warnings.length >= 5, 'a warning each')
      process.off('warning', onWarning)
    },
  },
  {
    name: 'the statistics agree with what happened',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await stage.publish(broker, keyed(topic, 10, 10))
      await stage.listen(broker, topic, { group: 'g', retry: { ...quick, maxAttempts: 2 } }, (message, context) => {
        if (message.key === 'key-1') context.skip()
        if (message.key === 'key-2' || (message.key === 'key-3' && message.attempt === 1)) throw new Error('no')
      })
      await stage.untilRead(broker, topic, 'g')
      const { published, delivered, acked, skipped, failed, deadLettered, dropped, running, buffered, stuck, subscriptions } = broker.stats()
      assert.deepEqual(
        { published, delivered, acked, skipped, failed, deadLettered, dropped, running, buffered, stuck, subscriptions },
        { published: 11, delivered: 10, acked: 8, skipped: 1, failed: 3, deadLettered: 1, dropped: 0, running: 0, buffered: 0, stuck: 0, subscriptions: 1 },
      )
    },
  },
  {
    name: 'pull gives batches on demand, and each message is settled for itself',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const puller = await broker.pull(topic, { group: 'g', order: 'none', drainMs: 10, abortGraceMs: 10, retry: quick })
      assert.deepEqual(await puller.next(10, { waitMs: 5 }), [], 'nothing is there')
      await stage.publish(broker, keyed(topic, 5, 5))
      const pulled: Pulled[] = []
      while (pulled.length < 5) pulled.push(...(await puller.next(3)))
      const by = (key: string) => pulled.find(({ message }) => message.key === key)!
      by('key-0').ack()
      by('key-1').retry({ delayMs: 1 })
      by('key-2').deadLetter('no good')
      by('key-3').skip()
      // A second settlement changes nothing.
      for (const key of ['key-0', 'key-1', 'key-2', 'key-3']) {
        by(key).retry({ error: new Error('late') })
        by(key).retry({ delayMs: 1 })
        by(key).deadLetter('late')
        by(key).skip()
        by(key).ack()
      }
      const again: Pulled[] = []
      while (again.length < 1) again.push(...(await puller.next(10)))
      assert.deepEqual(
        again.map(({ message }) => [message.key, message.attempt]),
        [['key-1', 2]],
      )
      again[0]!.ack()
      await stage.until(async () => (await broker.lag(topic, 'g')).messages === 1, 'all but the one that nobody settled')
      await puller.close()
      await assert.rejects(puller.next(1), { code: 'ERR_MESSAGING_CLOSED' })
      const rest = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        rest.done.map(({ key }) => key),
        ['key-4'],
      )
      const { letters } = await broker.deadLetters(topic, 'g').list()
      assert.deepEqual(
        letters.map(({ key, error }) => [key, error.message]),
        [['key-2', 'no good']],
      )
    },
  },
  {
    name: 'pull waits for what is not there yet, and its signal ends the wait',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const puller = await broker.pull(topic, { group: 'g' })
      const waiting = puller.next(5, { waitMs: 60_000 })
      await broker.publish({ topic, value: bytes('late') })
      const [one] = await waiting
      assert.equal(textOf(one!.message), 'late')
      one!.ack()
      const stop = new AbortController()
      const reason = new Error('enough')
      const aborted = puller.next(5, { waitMs: 60_000, signal: stop.signal })
      stop.abort(reason)
      await assert.rejects(aborted, reason)
      // Two who wait at once are both woken: neither waits its time out.
      const two = [1, 2].map(() => puller.next(1, { waitMs: 60_000 }).then(([each]) => each!.ack()))
      await stage.publish(broker, keyed(topic, 2, 2))
      await Promise.all(two)
      await assert.rejects(puller.next(0), RangeError)
    },
  },
]
