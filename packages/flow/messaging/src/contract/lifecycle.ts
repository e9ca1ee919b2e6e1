import assert from 'node:assert/strict'
import type { Subscription } from '../subscription.ts'
import { needs } from './needs.ts'
import { assertKeyOrder, bytes, type Definition, keyed, range, textOf } from './stage.ts'

/** Closing, draining, starting again, and health. */
export const lifecycleCases: readonly Definition[] = [
  {
    name: 'an idle subscription and an idle broker close within a second',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const { subscription, done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.listen(broker, topic, {})
      await broker.publish({ topic, value: bytes('') })
      await stage.until(() => done.length === 1, 'the message')
      await stage.within(1_000, 'closing the subscription', () => subscription.close())
      assert.equal(subscription.state, 'closed')
      await stage.within(1_000, 'closing the broker', () => broker.close())
    },
  },
  {
    name: 'close starts nothing more, waits for what runs, and stores it as done',
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(other, keyed(topic, 10, 10))
      const gate = stage.gate()
      const { subscription, runs, done } = await stage.listen(broker, topic, { group: 'g', concurrency: 3, flushMs: 60_000 }, () => gate.promise)
      await stage.until(() => runs.length === 3, 'three to run')
      let closed = false
      const closing = subscription.close().then(() => (closed = true))
      assert.equal(subscription.state, 'closing')
      await stage.clock.sleep(20)
      assert.equal(closed, false)
      gate.resolve()
      await closing
      assert.equal(subscription.state, 'closed')
      assert.deepEqual([runs.length, done.length], [3, 3])
      assert.equal((await other.lag(topic, 'g')).messages, 7)
      const rest = await stage.listen(other, topic, { group: 'g' })
      await stage.untilRead(other, topic, 'g')
      assert.equal(rest.done.length, 7)
    },
  },
  {
    name: 'when the drain is over the signals abort; what was not acknowledged goes back and comes again as it was',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, key: 'k', value: bytes('slow') })
      const reasons: unknown[] = []
      const { subscription, runs } = await stage.listen(
        broker,
        topic,
        { group: 'g', drainMs: 10, abortGraceMs: 2_000 },
        (_message, { signal }) =>
          new Promise((_resolve, reject) =>
            signal.addEventListener('abort', () => {
              reasons.push((signal.reason as { code: string }).code)
              reject(signal.reason as Error)
            }),
          ),
      )
      await stage.until(() => runs.length === 1, 'the handler')
      await subscription.close()
      assert.deepEqual(reasons, ['ERR_MESSAGING_SHUTDOWN'])
      const again = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        again.done.map(({ text, attempt }) => [text, attempt]),
        [['slow', 1]],
      )
      assert.equal(await broker.deadLetters(topic, 'g').count(), 0)
    },
  },
  {
    name: 'close comes to its end though a handler ignores its signal, and what that handler says later counts for nobody',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, value: bytes('deaf') })
      const gate = stage.gate()
      const { subscription, runs, done } = await stage.listen(broker, topic, { group: 'g', drainMs: 5, abortGraceMs: 5 }, () => gate.promise)
      await stage.until(() => runs.length === 1, 'the handler')
      await stage.within(1_000, 'close', () => subscription.close())
      gate.resolve()
      await stage.until(() => done.length === 1, 'the deaf handler to end')
      assert.equal((await broker.lag(topic, 'g')).messages, 1)
      const again = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.equal(again.done.length, 1)
    },
  },
  {
    name: 'a handler may close its own subscription without waiting for it',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
      await stage.publish(broker, keyed(topic, 5, 1))
      let closing: Promise<void> | undefined
      let subscription: Subscription | undefined
      const listener = await stage.listen(broker, topic, { group: 'g' }, async () => {
        await stage.until(() => subscription !== undefined, 'the subscription')
        closing ??= subscription!.close()
      })
      ;({ subscription } = listener)
      await stage.until(() => closing !== undefined, 'the handler')
      await closing
      assert.equal(listener.done.length, 1)
      assert.equal((await broker.lag(topic, 'g')).messages, 4)
    },
  },
  {
    name: 'ten subscriptions close at once, some twice, and the group goes on elsewhere',
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const done: { id: string; key: string | undefined; text: string }[] = []
      const open = await Promise.all(
        range(10).map(() =>
          stage.listen(broker, topic, { group: 'g' }, ({ id, key, value }) => {
            done.push({ id, key, text: textOf({ value }) })
          }),
        ),
      )
      const n = Math.min(stage.n, 200)
      const ids = await stage.publish(other, keyed(topic, n, 10))
      await stage.until(() => done.length >= n / 10, 'some')
      await Promise.all([...open, ...open.slice(0, 3)].map(({ subscription }) => subscription.close()))
      await stage.listen(other, topic, { group: 'g', concurrency: 4 }, ({ id, key, value }) => {
        done.push({ id, key, text: textOf({ value }) })
      })
      await stage.untilRead(other, topic, 'g')
      assert.deepEqual(done.map(({ id }) => id).sort(), [...ids].sort())
      assertKeyOrder(done)
    },
  },
  {
    name: 'after a restart a group goes on where it stood: nothing lost, nothing twice',
    run: async (stage) => {
      const publisher = await stage.broker()
      const topic = stage.topic()
      await publisher.createTopic(topic, { groups: ['g'] })
      const inputs = keyed(topic, stage.n, 10)
      const third = Math.ceil(stage.n / 3)
      const done: { id: string; key: string | undefined; text: string }[] = []
      for (const life of range(3)) {
        const broker = await stage.broker()
        const listener = await stage.listen(broker, topic, { group: 'g', concurrency: 4 })
        await stage.publish(publisher, inputs.slice(life * third, (life + 1) * third))
        // The first two end in the middle of it.
        await stage.until(() => listener.done.length >= third / 2, 'half of it')
        if (life === 2) await stage.untilRead(publisher, topic, 'g')
        await broker.close()
        done.push(...listener.done)
      }
      assert.equal(done.length, stage.n)
      assert.equal(new Set(done.map(({ id }) => id)).size, stage.n)
      assertKeyOrder(done)
    },
  },
  {
    name: 'the signal of a subscription closes it; one that is aborted already opens nothing',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const stop = new AbortController()
      const { subscription } = await stage.listen(broker, topic, { group: 'g', signal: stop.signal })
      stop.abort(new Error('enough'))
      await stage.until(() => subscription.state === 'closed', 'it to close')
      assert.equal(broker.stats().subscriptions, 0)
      await assert.rejects(
        broker.subscribe(topic, { group: 'g', signal: stop.signal }, () => undefined),
        { message: 'enough' },
      )
    },
  },
  {
    name: 'a broker that closes while it subscribes leaves no member behind',
    needs: needs.history,
    run: async (stage) => {
      const observer = await stage.broker()
      const topic = stage.topic()
      await observer.createTopic(topic, { groups: ['g'] })
      for (let turns = 0; turns < 8; turns++) {
        const broker = await stage.broker()
        const subscribing = broker
          .subscribe(topic, { group: 'g' }, () => undefined)
          .then(
            () => undefined,
            (error: unknown) => error as { code?: string },
          )
        for (let i = 0; i < turns; i++) await Promise.resolve()
        await broker.close()
        const error = await subscribing
        if (error) assert.equal(error.code, 'ERR_MESSAGING_CLOSED')
      }
      await observer.resetGroup(topic, 'g', { to: 'earliest' })
    },
  },
  {
    name: 'both have Symbol.asyncDispose, for await using',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const { subscription } = await stage.listen(broker, topic, { group: 'g' })
      await subscription[Symbol.asyncDispose]()
      assert.equal(subscription.state, 'closed')
      const { subscription: second } = await stage.listen(broker, topic, { group: 'g' })
      await broker[Symbol.asyncDispose]()
      assert.equal(second.state, 'closed', 'a broker closes its subscriptions')
      await assert.rejects(broker.publish({ topic, value: bytes('') }), { code: 'ERR_MESSAGING_CLOSED' })
    },
  },
  {
    name: 'a handler that is drained may still publish what follows from its message',
    run: async (stage) => {
      const broker = await stage.broker()
      const other = await stage.broker()
      const [topic, next] = [stage.topic(), stage.topic('next')]
      await other.createTopic(next, { groups: ['g'] })
      await other.createTopic(topic, { groups: ['g'] })
      await other.publish({ topic, value: bytes('first') })
      const gate = stage.gate()
      const { runs } = await stage.listen(broker, topic, { group: 'g' }, async () => {
        await gate.promise
        await broker.publish({ topic: next, value: bytes('second') })
      })
      await stage.until(() => runs.length === 1, 'the handler')
      const closing = broker.close()
      gate.resolve()
      await closing
      assert.equal((await other.lag(topic, 'g')).messages, 0)
      assert.equal((await other.lag(next, 'g')).messages, 1)
    },
  },
  {
    name: 'opening and closing leaves no timers behind',
    run: async (stage) => {
      const topic = stage.topic()
      const cycle = async (): Promise<void> => {
        const broker = await stage.broker()
        const { done } = await stage.listen(broker, topic, { group: 'g', handlerTimeoutMs: 3_600_000 })
        await broker.publish({ topic, value: bytes('') })
        await stage.until(() => done.length > 0, 'the message')
        await broker.close()
      }
      const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
      await cycle()
      const before = timers()
      for (const _ of range(10)) await cycle()
      // A client that was passed in may keep a timer or two of its own; ten cycles would leave ten.
      await stage.until(() => timers() < before + 10, 'the timers of ten cycles to end')
    },
  },
  {
    name: 'health is ok, changes nothing, and is down when the broker cannot be reached',
    needs: needs.sever,
    run: async (stage) => {
      const client = await stage.client()
      const { broker } = client
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, value: bytes('') })
      const { status, driver, latencyMs, stuck } = await broker.health({ signal: new AbortController().signal })
      assert.deepEqual([status, driver, typeof latencyMs, stuck], ['ok', broker.driver, 'number', 0])
      assert.equal((await broker.lag(topic, 'g')).messages, 1)
      await stage.sever(client)
      const down = await broker.health()
      assert.equal(down.status, 'down')
      assert.ok(down.error !== undefined)
      assert.equal((await broker.health({ signal: AbortSignal.abort(new Error('enough')) })).status, 'down')
    },
  },
  {
    name: 'a subscription of a broker that is cut off says so, and its group goes on elsewhere',
    needs: needs.sever,
    leases: true,
    run: async (stage) => {
      const errors: unknown[] = []
      const client = await stage.client({ hooks: { onError: ({ error }) => void errors.push(error) } })
      const broker = await stage.broker()
      const topic = stage.topic()
      const cut = await stage.listen(client.broker, topic, { group: 'g', flushMs: 5 })
      await broker.publish({ topic, value: bytes('before') })
      await stage.until(async () => (await broker.lag(topic, 'g')).messages === 0, 'the first message to be stored as done')
      await stage.sever(client)
      const next = await stage.listen(broker, topic, { group: 'g' })
      await stage.publish(broker, keyed(topic, 10, 10))
      await stage.untilRead(broker, topic, 'g')
      assert.equal(next.done.length, 10)
      assert.equal(cut.done.length, 1)
      await stage.until(() => errors.length > 0 || cut.subscription.stats().partitions === 0, 'a sign of it')
    },
  },
]
