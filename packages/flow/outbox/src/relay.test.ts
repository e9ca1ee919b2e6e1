import assert from 'node:assert/strict'
import { describe, test, type TestContext } from 'node:test'
import { failing, memoryHarness, message, testBroker, textOf, virtualClock } from './harness.test.ts'
import {
  createOutbox,
  memoryStore,
  relay,
  type Alarm,
  type OutboxMessage,
  type PublishedMessage,
  type PublishResult,
  type Relay,
  type RelayOptions,
  type RelayPublisher,
} from './index.ts'

/** A relay over a memory store, both on one virtual clock, or on the system's when the case says so. */
async function setup(t: TestContext, publisher: RelayOptions['publisher'], options: Partial<RelayOptions> = {}) {
  const clock = virtualClock()
  const memory = memoryStore({ clock })
  const outbox = createOutbox({ store: memory.outbox })
  const errors: [unknown, string][] = []
  const moving = relay({
    db: memory,
    outbox,
    publisher,
    clock,
    random: () => 1,
    ...options,
    hooks: { onError: (...error) => errors.push(error), ...options.hooks },
  })
  t.after(async () => {
    const closing = moving.close()
    await clock.advance(60_000)
    await closing
  })
  await moving.start()
  const add = (...messages: (OutboxMessage | readonly OutboxMessage[])[]): Promise<unknown> => memory.transaction((tx) => outbox.add(tx, messages.flat()))
  return { clock, memory, outbox, moving, errors, add, pending: async () => (await outbox.counts(memory)).pending }
}

const many = (n: number, key: (i: number) => string) => Array.from({ length: n }, (_, i) => message(key(i), String(i)))

describe('waiting', () => {
  test('an idle relay looks every pollMs, and at once when woken, also when it was woken in the middle of a look', async (t) => {
    const broker = testBroker()
    const { clock, moving, add } = await setup(t, broker, { pollMs: 1_000 })
    await clock.advance(10)
    await add(message('k', '1'))
    await clock.advance(500)
    assert.deepEqual(broker.texts(), [])
    moving.wake()
    await clock.advance(0)
    assert.deepEqual(broker.texts(), ['1'])
    await add(message('k', '2'))
    await clock.advance(1_000)
    assert.deepEqual(broker.texts(), ['1', '2'])
  })

  test('NOTIFY wakes it, and the session that listens ends with it', async (t) => {
    const broker = testBroker()
    let notify: (() => void) | undefined
    const { clock, add, moving } = await setup(t, broker, {
      pollMs: 100_000,
      wake: 'poll+notify',
      listen: async (channel, onWake) => {
        assert.equal(channel, 'public.outbox')
        notify = onWake
        return async () => (notify = undefined)
      },
    })
    await clock.advance(10)
    await add(message('k', '1'))
    notify!()
    await clock.advance(0)
    assert.deepEqual(broker.texts(), ['1'])
    const closing = moving.close()
    await clock.advance(0)
    await closing
    assert.equal(notify, undefined)
  })

  test('a listener that cannot be had leaves polling', async (t) => {
    const broker = testBroker()
    const { clock, add, errors } = await setup(t, broker, { wake: 'poll+notify', listen: () => Promise.reject(new Error('no session')) })
    await add(message('k', '1'))
    await clock.advance(200)
    assert.deepEqual(broker.texts(), ['1'])
    assert.match(String(errors[0]![0]), /no session/)
  })

  test('a listener that gives no answer leaves polling too, keeps no close waiting, and one that comes late is ended', async (t) => {
    const broker = testBroker()
    const clock = virtualClock()
    const memory = memoryStore({ clock })
    const outbox = createOutbox({ store: memory.outbox })
    const opened: ((end: () => Promise<void>) => void)[] = []
    let ended = 0
    const create = (): Relay =>
      relay({
        db: memory,
        outbox,
        publisher: broker,
        clock,
        wake: 'poll+notify',
        listen: () => new Promise((resolve) => opened.push(resolve)),
        hooks: { onError: () => {} },
      })
    const [one, two] = [create(), create()]
    t.after(() => Promise.all([one.close(), two.close()]))
    void one.start()
    await memory.transaction((tx) => outbox.add(tx, message('k', '1')))
    await clock.advance(31_000)
    assert.deepEqual(broker.texts(), ['1'])
    const starting = two.start()
    await clock.advance(10)
    const closing = Promise.all([one.close(), two.close(), starting])
    await clock.advance(100)
    await closing
    for (const open of opened) open(async () => void ended++)
    await clock.advance(0)
    assert.equal(ended, 2)
  })
})

describe('a broker that is down', () => {
  test('for a quarter of an hour: nothing is parked, nothing lost, few attempts are made, and work resumes within a second of its return', async (t) => {
    let down = true
    const broker = testBroker(() => (down ? { status: 'unknown', error: failing(true) } : undefined))
    const { clock, add, moving, outbox, memory } = await setup(t, broker, { pollMs: 1_000 })
    await add(many(300, (i) => `k${i % 20}`))
    for (let minute = 0; minute < 15; minute++) {
      await clock.advance(60_000)
      await add(many(20, (i) => `k${i}`))
    }
    assert.equal(moving.stats().state, 'broker-down')
    assert.equal((await moving.check()).status, 'degraded')
    assert.ok(broker.calls.length < 15 * 61, `${broker.calls.length} calls`)
    down = false
    await clock.advance(1_100)
    assert.deepEqual(await outbox.counts(memory), { pending: 0, oldestAgeMs: 0, delayed: 0, parked: 0, blocked: 0 })
    assert.equal(broker.sent.length, 600)
    assert.equal(new Set(broker.sent.map((m) => m.id)).size, 600)
    assert.deepEqual([moving.stats().state, (await moving.check()).status, moving.stats().published], ['running', 'ok', 600])
  })

  test('a call that never answers is given up after publishTimeoutMs and repeated under the same ids', async (t) => {
    const ids: string[][] = []
    const signals: AbortSignal[] = []
    const { clock, add, errors, pending } = await setup(
      t,
      {
        publishBatch: (messages, { signal }) => {
          ids.push(messages.map((m) => m.id))
          signals.push(signal)
          return ids.length === 1 ? new Promise(() => {}) : Promise.resolve(messages.map(() => ({ status: 'stored' })))
        },
      },
      { publishTimeoutMs: 2_000 },
    )
    await add(message('k', '1'))
    await clock.advance(2_500)
    assert.deepEqual(ids[1], ids[0])
    assert.equal(signals[0]!.aborted, true)
    assert.equal((errors[0]![0] as { code: string }).code, 'ERR_OUTBOX_PUBLISH_TIMEOUT')
    assert.equal(await pending(), 0)
  })

  test('groups are made before the first message goes out, however long that takes', async (t) => {
    const log: string[] = []
    let attempts = 0
    const broker = testBroker((m) => void log.push(textOf(m)))
    const publisher = {
      ...broker,
      createGroup: async (topic: string, group: string) => {
        if (++attempts < 3) throw failing(true)
        log.push(`${topic} ${group}`)
      },
    }
    const { clock, add, errors } = await setup(t, publisher, { groups: { test: ['a', 'b'] } })
    await add(message('k', '1'))
    await clock.advance(5_000)
    assert.deepEqual(log, ['test a', 'test b', '1'])
    assert.equal(errors.length, 2)
  })
})

test('a relay that cannot make its groups takes no share from the others', async (t) => {
  const broker = testBroker()
  const { clock, add, memory, outbox } = await setup(t, broker)
  const createGroup = (): Promise<never> => Promise.reject(new Error('a bad name'))
  const stuck = relay({ db: memory, outbox, publisher: { ...testBroker(), createGroup }, groups: { test: ['g'] }, clock, hooks: { onError: () => undefined } })
  await stuck.start()
  await clock.advance(20_000)
  await add(many(160, (i) => `k${i}`))
  await clock.advance(1_000)
  assert.equal(broker.sent.length, 160)
  const closing = stuck.close()
  await clock.advance(10_000)
  await closing
})

test('a group that gives no answer is asked for again after publishTimeoutMs, and close does not wait for it', async (t) => {
  let asked = 0
  const publisher = { ...testBroker(), createGroup: () => (asked++, new Promise<never>(() => {})) }
  const { clock, moving, errors } = await setup(t, publisher, { groups: { test: ['g'] }, publishTimeoutMs: 200 })
  await clock.advance(1_000)
  assert.ok(asked > 1)
  assert.deepEqual([moving.stats().state, (await moving.check()).status], ['broker-down', 'degraded'])
  assert.ok(errors.length > 0 && errors.every(([error]) => (error as { code: string }).code === 'ERR_OUTBOX_PUBLISH_TIMEOUT'))
  let closed = false
  const closing = moving.close().then(() => (closed = true))
  await clock.advance(0)
  assert.ok(closed)
  await closing
  assert.ok(errors.every(([error]) => (error as { code: string }).code === 'ERR_OUTBOX_PUBLISH_TIMEOUT'))
})

describe('poison', () => {
  test('a topic that takes nothing holds up no other, however many of its keys come first', async (t) => {
    const broker = testBroker(({ topic }) => (topic === 'full' ? { status: 'rejected', error: failing(true) } : undefined))
    const { clock, add } = await setup(t, broker, { batch: 20 })
    await add(many(3_000, (i) => `k${i}`).map((m) => ({ ...m, topic: 'full' })))
    for (let i = 0; i < 10; i++) {
      await add(message(`good ${i}`, 'good'))
      await clock.advance(5_000)
      assert.equal(broker.sent.length, i + 1)
    }
  })

  test('the same when its publisher fails for the whole batch', async (t) => {
    const broker = testBroker()
    const publishBatch: typeof broker.publishBatch = async (messages) => {
      if (messages.some(({ topic }) => topic === 'full')) throw failing(true)
      return broker.publishBatch(messages)
    }
    const { clock, add } = await setup(t, { publishBatch }, { batch: 20 })
    await add(many(3_000, (i) => `k${i}`).map((m) => ({ ...m, topic: 'full' })))
    for (let i = 0; i < 5; i++) {
      await add(message(`good ${i}`, 'good'))
      await clock.advance(20_000)
      assert.equal(broker.sent.length, i + 1)
    }
  })

  test('the same when its publisher never answers: others wait for that batch and no more', async (t) => {
    const broker = testBroker()
    const publishBatch: typeof broker.publishBatch = (messages) =>
      messages.some(({ topic }) => topic === 'hangs') ? new Promise(() => undefined) : broker.publishBatch(messages)
    const { clock, add } = await setup(t, { publishBatch }, { publishTimeoutMs: 1_000, leaseMs: 60_000 })
    await add(
      many(600, (i) => `k${i}`).map((m) => ({ ...m, topic: 'hangs' })),
      many(50, (i) => `good ${i}`),
    )
    await clock.advance(2_500)
    assert.equal(broker.sent.length, 50)
  })

  for (const [how, answer] of Object.entries({
    'that never answers': () => new Promise<never>(() => undefined),
    'that answers for each, late': undefined,
    'that fails for the whole batch': () => Promise.reject(failing(true)),
  }))
    test(`a stream flows on beside a topic ${how}`, async (t) => {
      const broker = testBroker(({ topic }) => (topic === 'bad' ? { status: 'unknown', error: failing(true) } : undefined))
      const { clock, add } = await setup(t, {
        publishBatch: async (messages) => {
          const isBad = messages.some(({ topic }) => topic === 'bad')
          if (isBad && answer) return answer()
          if (isBad) await clock.sleep(30_000)
          return broker.publishBatch(messages)
        },
      })
      const published: number[] = []
      for (let second = 0; second < 120; second++) {
        await add(
          many(10, (i) => `k${i}`),
          { ...message(`bad ${second}`, 'bad'), topic: 'bad' },
        )
        await clock.advance(1_000)
        published.push(broker.sent.length)
      }
      const seconds = published.slice(40).filter((n, i) => n < 10 * (i + 40))
      assert.deepEqual(seconds, [], 'after the one batch that it spoiled, nothing waits')
      assert.equal(new Set(broker.sent.map(({ id }) => id)).size, broker.sent.length)
    })

  test('a topic that fails at once, again and again, keeps no message of another waiting, though these are few', async (t) => {
    const broker = testBroker()
    const { clock, add, moving } = await setup(t, {
      publishBatch: async (messages) => {
        if (messages.some(({ topic }) => topic === 'bad')) throw failing(true)
        return broker.publishBatch(messages)
      },
    })
    await add(many(10, (i) => `k${i}`).map((m) => ({ ...m, topic: 'bad' })))
    await clock.advance(10_000)
    for (let i = 0; i < 20; i++) {
      await clock.advance(1_537)
      await add(message('k', 'good'))
      moving.wake()
      await clock.advance(0)
      assert.equal(broker.sent.length, i + 1)
    }
  })

  test('messages that hang hold up neither other topics nor others of their own, after their first time', async (t) => {
    const { clock, add, moving, outbox, memory } = await setup(t, {
      publish: (m) => (textOf(m) === 'hangs' ? new Promise(() => undefined) : Promise.resolve()),
    })
    const age = async (): Promise<number> => (await outbox.counts(memory)).pending
    await add(['x', 'y', 'z'].map((key) => ({ ...message(key, 'hangs'), topic: 'a' })))
    const pending: number[] = []
    for (let second = 0; second < 240; second++) {
      await add({ ...message(`k${second}`, 'fine'), topic: 'a' }, { ...message(`k${second}`, 'fine'), topic: 'b' })
      await clock.advance(1_000)
      pending.push(await age())
    }
    assert.deepEqual(
      pending.slice(40).filter((n) => n > 3),
      [],
    )
    for (let minute = 0; minute < 10 && moving.stats().parked < 3; minute++) {
      await add({ ...message('later', 'fine'), topic: 'b' })
      await clock.advance(60_000)
    }
    assert.equal(moving.stats().parked, 3)
  })

  test('a relay that lost what it had failed on is no longer down, and closing while others hang sends nothing twice', async (t) => {
    const slow = { ms: 0 }
    const sent: string[] = []
    const { clock, add, memory, outbox, moving } = await setup(t, {
      publishBatch: async (messages) => {
        if (messages.some(({ topic }) => topic === 'bad') && slow.ms === 0) throw failing(true)
        await clock.sleep(slow.ms)
        sent.push(...messages.map(textOf))
        return messages.map(() => ({ status: 'stored' }))
      },
    })
    await add({ ...message('k', 'one'), topic: 'bad' })
    await clock.advance(5_000)
    assert.equal((await moving.check()).status, 'degraded')
    await memory.outbox.queue.next(memory, {
      done: [{ id: 1, partition: 0 }].concat(Array.from({ length: 16 }, (_, p) => ({ id: 1, partition: p }))),
      from: [],
      except: { lanes: [], topics: [] },
      limit: 0,
      limitBytes: 0,
    })
    await clock.advance(5_000)
    assert.deepEqual([(await moving.check()).status, moving.stats().state], ['ok', 'running'])

    await add({ ...message('k', 'two'), topic: 'bad' })
    await clock.advance(1_000)
    slow.ms = 12_000
    await clock.advance(2_000)
    const closing = moving.close()
    const other = testBroker()
    const next = relay({ db: memory, outbox, publisher: other, clock })
    await next.start()
    await clock.advance(60_000)
    await closing
    assert.deepEqual([sent, other.sent.length], [['two'], 0])
    const ending = next.close()
    await clock.advance(10_000)
    await ending
  })

  test('partitions of which rows are under way beside the others are not handed over before their answer', async (t) => {
    const answers: (() => void)[] = []
    const taken: string[] = []
    const publishBatch: NonNullable<RelayPublisher['publishBatch']> = async (messages) => {
      const isBad = messages.some(({ topic }) => topic === 'bad')
      if (isBad && taken.push('first') === 1) throw failing(true)
      if (isBad) await new Promise<void>((resolve) => void answers.push(resolve))
      return messages.map(() => ({ status: 'stored' }))
    }
    const { clock, add, memory, outbox } = await setup(t, { publishBatch })
    await add(many(64, (i) => `k${i}`).map((m) => ({ ...m, topic: 'bad' })))
    await clock.advance(1_000)
    assert.equal(answers.length, 1)
    const broker = testBroker()
    const other = relay({ db: memory, outbox, publisher: broker, clock })
    await other.start()
    await clock.advance(10_000)
    const before = broker.sent.length
    answers[0]!()
    await clock.advance(10_000)
    assert.equal(before, 0, 'it holds all that it is sending until then')
    assert.equal(other.stats().partitions, 8)
    const closing = other.close()
    await clock.advance(10_000)
    await closing
  })

  test('what was tried in vain goes first once the broker takes something, not when nothing else is left', async (t) => {
    let calls = 0
    const broker = testBroker(({ key }) => (key === 'old' && ++calls === 1 ? { status: 'rejected', error: failing(true) } : undefined))
    const { clock, add } = await setup(t, broker, { batch: 1, retry: { initialMs: 1, maxMs: 1 } })
    await add(
      message('old', 'old'),
      { ...message('first', 'first'), topic: 'other' },
      many(100, (i) => `k${i}`),
    )
    await clock.advance(10_000)
    assert.deepEqual([broker.sent.length, broker.texts().slice(0, 2)], [102, ['first', 'old']])
  })

  test('a row that brings its whole batch down is found, parked, and all others are published', async (t) => {
    const parked: string[] = []
    const broker = testBroker()
    const publishBatch: typeof broker.publishBatch = async (messages) => {
      if (messages.some((m) => textOf(m) === '123')) throw new Error('connection closed by peer')
      return broker.publishBatch(messages)
    }
    const { clock, add, outbox, memory } = await setup(t, { publishBatch }, { maxAttempts: 3, hooks: { onParked: ({ key }) => parked.push(key!) } })
    await add(many(200, (i) => `k${i}`))
    for (let i = 0; i < 100 && parked.length === 0; i++) {
      await add(message('later', String(1_000 + i)))
      await clock.advance(1_000)
    }
    assert.deepEqual(parked, ['k123'])
    await clock.advance(5_000)
    const { pending, parked: inTable } = await outbox.counts(memory)
    assert.deepEqual([pending, inTable], [0, 1])
    assert.equal(new Set(broker.texts().filter((text) => Number(text) < 200)).size, 199)
  })

  test('attempts are as many as said, spaced by the backoff; other keys go on meanwhile, its own waits', async (t) => {
    const attempts: number[] = []
    const broker = testBroker((m) => (textOf(m) === 'poison' ? (attempts.push(clock.monotonic()), { status: 'rejected', error: failing(false) }) : undefined))
    const { clock, add, moving } = await setup(t, broker, { maxAttempts: 4, retry: { initialMs: 1_000, multiplier: 2, maxMs: 3_000 }, pollMs: 10 })
    await add(message('bad', 'poison'), message('bad', 'after'), message('good', '0'))
    await clock.advance(900)
    await add(message('good', '1'))
    await clock.advance(50)
    assert.deepEqual(broker.texts(), ['0', '1'])
    await clock.advance(10_000)
    const [first = 0, ...later] = attempts
    assert.deepEqual(
      later.map((at) => at - first),
      [1_000, 3_000, 6_000],
    )
    assert.equal(moving.stats().parked, 1)
    const [row] = await moving.parked.list()
    assert.deepEqual([row!.attempts, row!.error, row!.blocked], [4, { code: 'ERR_REFUSED', message: 'refused' }, 1])
  })

  test('attempts are not forgotten when the time of the next comes while the database is asked', async (t) => {
    let tries = 0
    const clock = virtualClock()
    const memory = memoryStore({ clock })
    const next: typeof memory.outbox.queue.next = async (...given) => {
      const rows = await memory.outbox.queue.next(...given)
      await clock.sleep(150)
      return rows
    }
    const outbox = createOutbox({ store: { ...memory.outbox, queue: { ...memory.outbox.queue, next } } })
    const publish = (): Promise<never> => (tries++, Promise.reject(failing(false)))
    const moving = relay({ db: memory, outbox, clock, random: () => 1, maxAttempts: 3, publisher: { publish }, hooks: { onError: () => {} } })
    t.after(async () => {
      const closing = moving.close()
      await clock.advance(10_000)
      await closing
    })
    await moving.start()
    await memory.transaction((tx) => outbox.add(tx, message('k', 'bad')))
    await clock.advance(5_000)
    assert.deepEqual([moving.stats().parked, tries], [1, 3])
  })

  test('keyless rows that wait do not keep others from being read', async (t) => {
    const broker = testBroker((m) => (textOf(m) === 'bad' ? { status: 'rejected', error: failing(true) } : undefined))
    const { clock, add } = await setup(t, broker, { batch: 5, retry: { initialMs: 1e6, maxMs: 1e6 } })
    await add(
      message('k', 'first'),
      Array.from({ length: 5 }, () => message(undefined, 'bad')),
    )
    await clock.advance(200)
    await add(
      many(20, (i) => `k${i}`),
      Array.from({ length: 5 }, () => message(undefined, 'bad')),
    )
    await clock.advance(1_000)
    assert.equal(broker.sent.length, 21)
  })

  test('a publisher that has only publish sends a key in sequence, and not what stands behind a failure', async (t) => {
    const tried: string[] = []
    let fail = true
    const publish = async (m: { value: Uint8Array; key?: string }): Promise<void> => {
      tried.push(textOf(m))
      if (fail && textOf(m) === 'b1') throw failing(false)
    }
    const { clock, add } = await setup(t, { publish }, { retry: { initialMs: 300, maxMs: 300 } })
    await add(['a1', 'b1', 'a2', 'b2'].map((text) => message(text[0], text)))
    await clock.advance(100)
    assert.deepEqual(tried.toSorted(), ['a1', 'a2', 'b1'])
    fail = false
    await clock.advance(1_000)
    assert.deepEqual(tried.slice(3), ['b1', 'b2'])
  })

  test('one by one, a key with more messages than fit into the time of one is published in sequence and once; closing begins no further one', async (t) => {
    const sent: string[] = []
    let under = 0
    const slow = async (m: PublishedMessage, { signal }: { signal: AbortSignal }): Promise<void> => {
      assert.ok(!signal.aborted && ++under === 1)
      await clock.sleep(100)
      under--
      sent.push(textOf(m))
    }
    const { clock, add, moving, errors } = await setup(t, { publish: slow }, { publishTimeoutMs: 1_000 })
    await add(many(100, () => 'k'))
    await clock.advance(5_050)
    const closing = moving.close()
    await clock.advance(60_000)
    await closing
    assert.deepEqual(
      sent,
      Array.from({ length: sent.length }, (_, i) => String(i)),
    )
    assert.ok(sent.length > 40 && sent.length < 53, String(sent.length))
    assert.deepEqual(errors, [])
  })

  test('a publisher that gives no array is at fault, not the database, and stats say why; a hook that rejects is a warning', async (t) => {
    const warned = new Promise<Error>((resolve) => process.once('warning', resolve))
    const publisher = { publishBatch: async () => undefined as never }
    const errors: [unknown, string][] = []
    const onError = async (...error: [unknown, string]): Promise<void> => {
      errors.push(error)
      throw new Error('no log')
    }
    // oxlint-disable-next-line typescript/no-misused-promises -- what users' code may do
    const { clock, add, moving } = await setup(t, publisher, { hooks: { onError } })
    await add(message('k', '1'))
    await clock.advance(1_000)
    const text = "The publisher's publishBatch must give an array of results, got undefined"
    assert.deepEqual(new Set(errors.map(([error, where]) => `${where}: ${(error as Error).message}`)), new Set([`publish: ${text}`]))
    const { state, error } = moving.stats()
    assert.deepEqual([state, (error as Error).message, (await warned).message], ['broker-down', text, 'Hook onError threw: Error: no log'])
  })

  test('a publisher that answers for too few, or throws no Error, has stored nothing for certain', async (t) => {
    let call = 0
    const publishBatch = async (messages: readonly unknown[]): Promise<{ status: 'stored' }[]> => {
      // eslint-disable-next-line typescript/only-throw-error -- what users' code may do
      if (++call === 1) throw 'text'
      return messages.slice(call === 2 ? 1 : 0).map(() => ({ status: 'stored' }))
    }
    const { clock, add, errors, pending } = await setup(t, { publishBatch })
    await add(message('k', '1'))
    await clock.advance(5_000)
    assert.equal(await pending(), 0)
    assert.deepEqual(
      errors.map(([error]) => (error as Error).message),
      ['text', 'The publisher gave no result for message 0 of 1'],
    )
  })
})

describe('a database that fails', () => {
  test('costs nothing but time: what was confirmed is deleted afterwards and not sent again', async (t) => {
    const clock = virtualClock()
    const harness = memoryHarness((memory) => ({
      outbox: {
        ...memory.outbox,
        queue: {
          ...memory.outbox.queue,
          next: (db, options) =>
            failures > 0 && options.done.length > 0 ? (failures--, Promise.reject(new Error('connection lost'))) : memory.outbox.queue.next(db, options),
        },
      },
    }))
    let failures = 3
    const broker = testBroker()
    const states = new Set<string>()
    const moving: Relay = relay({
      db: harness.db,
      outbox: harness.outbox,
      publisher: broker,
      clock,
      hooks: { onError: () => void states.add(moving.stats().state) },
    })
    t.after(() => moving.close())
    await harness.transaction((tx) => harness.outbox.add(tx, [message('k', '1'), message('k', '2')]))
    await moving.start()
    await clock.advance(10_000)
    assert.deepEqual([...states], ['database-down'])
    assert.deepEqual(broker.texts(), ['1', '2'])
    assert.equal((await harness.outbox.counts(harness.db)).pending, 0)
  })
})

test('however many rows are due at once, all go out at the same look', async (t) => {
  const broker = testBroker()
  const { clock, add } = await setup(t, broker, { pollMs: 100 })
  await add(Array.from({ length: 3_500 }, (_, i) => ({ ...message(`k${i}`, 'x'), deliverAt: clock.now() + 60_000 })))
  await clock.advance(59_999)
  assert.equal(broker.sent.length, 0)
  await clock.advance(600)
  assert.equal(broker.sent.length, 3_500)
})

describe('what is read at a time', () => {
  test('ends when the bodies come to 4 MiB', async (t) => {
    const broker = testBroker()
    const { clock, add } = await setup(t, broker)
    await add(Array.from({ length: 12 }, (_, i) => ({ ...message(`k${i}`, ''), value: new Uint8Array(900_000) })))
    await clock.advance(100)
    assert.deepEqual(broker.calls, [5, 5, 2])
  })

  test('is what is to be sent: while all batches fail as a whole one row, each time of another key', async (t) => {
    const keys: (string | undefined)[] = []
    const publishBatch = async (messages: readonly { key?: string }[]): Promise<never> => {
      keys.push(...messages.map(({ key }) => key))
      throw new Error('no broker')
    }
    const { clock, add, memory } = await setup(t, { publishBatch }, { batch: 8 })
    const next = t.mock.method(memory.outbox.queue, 'next')
    await add(many(6, (i) => `k${i % 3}`))
    await clock.advance(60_000)
    const sizes = await Promise.all(next.mock.calls.slice(-20).map(async ({ result }) => (await result!).length))
    assert.deepEqual(new Set(sizes), new Set([0, 1]), 'nothing for those above suspicion, then one row')
    assert.deepEqual(new Set(keys.slice(-3)), new Set(['k0', 'k1', 'k2']))
  })

  test('goes on behind a poison row that spoils its batch, and more than a batch of its key', async (t) => {
    const broker = testBroker()
    const publishBatch: typeof broker.publishBatch = async (messages) => {
      if (messages.some((m) => textOf(m) === 'poison')) throw new Error('connection closed by peer')
      return broker.publishBatch(messages)
    }
    const { clock, add, moving } = await setup(t, { publishBatch }, { batch: 5, maxAttempts: 2 })
    await add(
      message('bad', 'poison'),
      many(10, () => 'bad'),
      many(10, (i) => `k${i}`),
    )
    await clock.advance(60_000)
    assert.equal(moving.stats().published, 10)
  })
})

describe('a look that the database has no patience for', () => {
  test('is not repeated: after an outage everything goes on', async (t) => {
    let down = true
    const broker = testBroker(() => (down ? { status: 'rejected', error: failing(true) } : undefined))
    const { clock, add, memory, moving } = await setup(t, broker)
    const real = memory.outbox.queue.next.bind(memory.outbox.queue)
    t.mock.method(memory.outbox.queue, 'next', (...given: Parameters<typeof real>) =>
      given[1].except.topics.length > 0 ? Promise.reject(new Error('canceling statement due to statement timeout')) : real(...given),
    )
    await add(many(2_000, (i) => `k${i}`))
    await clock.advance(10_000)
    down = false
    await clock.advance(5_000)
    assert.deepEqual([broker.sent.length, moving.stats().state], [2_000, 'running'])
  })
})

describe('a move whose answer is lost', () => {
  const lost = (): Promise<never> => Promise.reject(new Error('connection lost'))

  test('had parked a row: those behind it wait all the same, and the park is told', async (t) => {
    const parked: string[] = []
    const broker = testBroker((m) => (textOf(m) === 'poison' ? { status: 'rejected', error: failing(false) } : undefined))
    const { clock, add, memory, moving, errors } = await setup(t, broker, {
      maxAttempts: 1,
      pollMs: 1_000,
      random: () => 0,
      hooks: { onParked: ({ key }) => parked.push(key!) },
    })
    const { queue } = memory.outbox
    const hold = queue.hold.bind(queue)
    t.mock.method(queue, 'hold', (...move: Parameters<typeof hold>) => hold(...move).then(lost), { times: 1 })
    await add(message('bad', 'poison'), message('bad', 'after'), message('good', '1'))
    await clock.advance(4_000)
    assert.deepEqual(broker.texts(), ['1'])
    assert.deepEqual([parked, moving.stats().parked, errors.length], [['bad'], 1, 2])
    const [row] = await moving.parked.list()
    assert.equal(row!.blocked, 1)
  })

  test('had brought rows back to their old places: they are published before what was added later', async (t) => {
    let mended = false
    const broker = testBroker((m) => (textOf(m) === '1' && !mended ? { status: 'rejected', error: failing(false) } : undefined))
    const { clock, add, memory, moving } = await setup(t, broker, { maxAttempts: 1 })
    await add(message('k', '1'), message('k', '2'))
    for (let i = 0; i < 10; i++) {
      await add(message('noise', 'x'))
      await clock.advance(1_000) // Reading now starts behind the old places.
    }
    mended = true
    const { queue } = memory.outbox
    const restore = queue.restore.bind(queue)
    const interrupted = async (...move: Parameters<typeof restore>): Promise<never> => {
      await restore(...move)
      await add(message('k', '3'))
      return lost()
    }
    t.mock.method(queue, 'restore', interrupted, { times: 1 })
    await moving.parked.release((await moving.parked.list()).map((row) => row.id))
    await clock.advance(2_000)
    assert.deepEqual(broker.texts('k'), ['1', '2', '3'])
  })

  test('may be done by the database long after the relay has given it up: then it moves nothing', async (t) => {
    let calls = 0
    const publishBatch = async (messages: readonly unknown[]): Promise<PublishResult[]> =>
      ++calls === 1 ? messages.map(() => ({ status: 'rejected', error: failing(false) })) : new Promise(() => {})
    const { clock, add, memory } = await setup(t, { publishBatch }, { maxAttempts: 1 })
    const { queue } = memory.outbox
    const hold = queue.hold.bind(queue)
    let late: (() => ReturnType<typeof hold>) | undefined
    const stalled = (...move: Parameters<typeof hold>): Promise<never> => {
      late = () => hold(...move)
      return new Promise(() => {})
    }
    t.mock.method(queue, 'hold', stalled, { times: 1 })
    await add(message('k', '1'))
    await clock.advance(35_000)
    assert.equal(calls, 2, 'the row is being sent again')
    assert.deepEqual(await late!(), [])
  })
})

describe('watching', () => {
  test('alarms say how old the oldest row is, once a minute, and hooks that throw change nothing', async (t) => {
    const alarms: Alarm[] = []
    const boom = (): never => {
      throw new Error('hook')
    }
    let down = true
    const broker = testBroker(() => (down ? { status: 'unknown' } : undefined))
    const { clock, add, moving } = await setup(t, broker, {
      hooks: {
        onAlarm: (alarm) => {
          alarms.push(alarm)
          boom()
        },
        onError: boom,
        onPublished: boom,
      },
    })
    await add(message('k', '1'))
    await clock.advance(59_000)
    assert.equal(alarms.length, 0)
    await clock.advance(125_000)
    assert.deepEqual(
      alarms.map((alarm) => alarm.kind),
      ['oldest-age', 'oldest-age', 'oldest-age'],
    )
    const ages = alarms.map((alarm) => Math.floor(alarm.ageMs / 1_000))
    assert.ok(ages[0]! >= 60 && ages[0]! <= 61, `at ${ages.join(', ')} s`)
    down = false
    await clock.advance(2_000)
    assert.equal(moving.stats().published, 1)
  })

  test('a row that waits for its next try is the oldest all the same', async (t) => {
    const broker = testBroker(({ key }) => (key === 'bad' ? { status: 'rejected', error: failing(true) } : undefined))
    const { clock, add, moving } = await setup(t, broker, { retry: { initialMs: 30_000, maxMs: 30_000 }, random: () => 0.999 })
    await add(message('bad', '1'))
    await clock.advance(5_000)
    for (let i = 0; i < 20; i++) {
      await add(message('good', '1'))
      await clock.advance(1_000)
    }
    const { oldestAgeMs } = await moving.check()
    assert.ok(oldestAgeMs >= 24_000 && oldestAgeMs <= 26_000, `${oldestAgeMs} ms`)
  })

  test('the rate is the mean of ten seconds', async (t) => {
    const { clock, add, moving } = await setup(t, testBroker())
    await add(many(50, () => 'k'))
    await clock.advance(1_000)
    assert.equal(moving.stats().publishedPerSecond, 5)
    await clock.advance(10_000)
    assert.equal(moving.stats().publishedPerSecond, 0)
    assert.deepEqual(await moving.counts(), { pending: 0, oldestAgeMs: 0, delayed: 0, parked: 0, blocked: 0 })
  })
})

describe('life', () => {
  test('close lets the batch under way finish, deletes it, gives the partitions back, and may be called again', async (t) => {
    let release: (() => void) | undefined
    const { clock, add, moving, memory, pending } = await setup(t, {
      publishBatch: (messages) => new Promise((resolve) => (release = () => resolve(messages.map(() => ({ status: 'stored' }))))),
    })
    await add(message('k', '1'))
    await clock.advance(200)
    let closed = false
    const closing = Promise.all([moving.close(), moving.close()]).then(() => (closed = true))
    await clock.advance(10_000)
    assert.equal(closed, false)
    assert.equal((await memory.outbox.leases.renew(memory, 'other', 1_000)).free.length, 0, 'its leases are renewed meanwhile')
    release!()
    await clock.advance(0)
    await closing
    assert.equal(await pending(), 0)
    assert.equal((await memory.outbox.leases.renew(memory, 'other', 1_000)).free.length, 16)
    assert.equal(moving.stats().state, 'closed')
    assert.throws(() => void moving.start(), TypeError)
  })

  test('close waits for what is under way, and deletes what was confirmed, though the database fails meanwhile', async (t) => {
    const clock = virtualClock()
    const memory = memoryStore({ clock })
    let failures = 0
    const next: typeof memory.outbox.queue.next = (db, given) =>
      given.limit === 0 && failures-- > 0 ? Promise.reject(new Error('gone')) : memory.outbox.queue.next(db, given)
    const outbox = createOutbox({ store: { ...memory.outbox, queue: { ...memory.outbox.queue, next } } })
    let tries = 0
    const publishBatch = async (messages: readonly PublishedMessage[]): Promise<PublishResult[]> => {
      if (messages[0]!.topic === 'bad' && tries++ === 0) throw failing(true)
      await clock.sleep(messages[0]!.topic === 'bad' ? 20_000 : 300)
      return messages.map(() => ({ status: 'stored' }))
    }
    const moving = relay({ db: memory, outbox, clock, publisher: { publishBatch }, hooks: { onError: () => {} } })
    const add = (topic: string): Promise<unknown> => memory.transaction((tx) => outbox.add(tx, { ...message('k', '1'), topic }))
    await moving.start()
    await add('bad')
    await clock.advance(1_000)
    await add('good')
    await clock.advance(200)
    failures = 1
    let closed = false
    const closing = moving.close().then(() => (closed = true))
    t.after(() => closing)
    await clock.advance(10_000)
    assert.equal(closed, false, 'the other is under way')
    await clock.advance(10_000)
    assert.deepEqual([closed, (await outbox.counts(memory)).pending], [true, 0])
    assert.equal((await memory.outbox.leases.renew(memory, 'other', 1_000)).free.length, 16)
  })

  test('a relay that was never started closes too; one that is started twice is started once', async (t) => {
    const db = memoryStore()
    const unstarted = relay({ db, outbox: createOutbox({ store: db.outbox }), publisher: testBroker() })
    await unstarted.close()
    const broker = testBroker()
    const { clock, memory, moving, add } = await setup(t, broker, { leaseMs: 300 })
    await moving.start()
    const renew = t.mock.method(memory.outbox.leases, 'renew')
    await add(message('k', '1'))
    await clock.advance(1_050)
    assert.deepEqual(broker.texts(), ['1'])
    assert.equal(renew.mock.callCount(), 10, 'one renewal every third of a lease')
  })

  test('waking by NOTIFY needs somebody who listens', () => {
    const db = memoryStore()
    assert.throws(() => relay({ db, publisher: testBroker(), wake: 'poll+notify' }), { name: 'TypeError', message: /listen/ })
  })

  test('a partition is handed over without a message being sent twice', async (t) => {
    const clock = virtualClock()
    const memory = memoryStore({ clock })
    const outbox = createOutbox({ store: memory.outbox })
    const broker = testBroker()
    const publishBatch: typeof broker.publishBatch = async (messages) => {
      await clock.sleep(50)
      return broker.publishBatch(messages)
    }
    const relays: Relay[] = []
    const close = async (...closing: Relay[]): Promise<void> => {
      const closed = Promise.all(closing.map((moving) => moving.close()))
      await clock.advance(300)
      await closed
    }
    t.after(() => close(...relays))
    for (let n = 0; n < 4; n++) {
      const moving = relay({ db: memory, outbox, publisher: { publishBatch }, clock, pollMs: 25, leaseMs: 300, batch: 5 })
      relays.push(moving)
      await moving.start()
      await memory.transaction((tx) =>
        outbox.add(
          tx,
          many(100, (i) => `k${i % 50}`),
        ),
      )
      await clock.advance(300)
      assert.ok(moving.stats().partitions > 0, `relay ${n} holds partitions`)
      assert.ok(broker.sent.length < 100 * (n + 1), 'in the middle of the work')
    }
    await close(relays[0]!)
    await clock.advance(3_000)
    assert.equal(broker.sent.length, 400)
  })
})
