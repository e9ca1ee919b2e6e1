import type { PublishedMessage, PublishResult } from './publish.ts'
import type { Row } from './store.ts'
import { inboxCases } from './contract-inbox.ts'
import { restoreCases } from './contract-restore.ts'
import { define, empty, equal, message, moving, recorder, refused, text, type ContractCase } from './contract-tools.ts'

export type { ContractCase, OutboxHarness } from './contract-tools.ts'

/** The promises of a store, for `postgresStore`, `memoryStore` and your own. Each case opens a store of its own. */
export const outboxContract: readonly ContractCase[] = [
  define('what is committed is published as it was given, and then gone', async (h, { start, until }) => {
    const given = { ...message('k', 'ü€😀'), id: 'id-1', headers: { ce_type: 'a b', x: 'ü' }, timestamp: 1_700_000_000_123, dedupeId: 'd' }
    const binary = { topic: 'contract', value: new Uint8Array([0, 255, 128, 10]) }
    const before = Date.now()
    const ids = await h.transaction((tx) => h.outbox.add(tx, [given, binary]))
    const broker = recorder()
    await start(moving(h, broker))
    await until(async () => broker.sent.length >= 2 && (await empty(h)), 'both rows published and deleted')
    equal(broker.sent.length, 2, 'publications')
    const sent = broker.sent.find((m) => m.id === 'id-1')!
    equal(
      [sent.topic, sent.key, text(sent), sent.headers, sent.timestamp, sent.dedupeId],
      ['contract', 'k', 'ü€😀', given.headers, given.timestamp, 'd'],
      'the full message',
    )
    const bare = broker.sent.find((m) => m.id === ids[1])!
    equal([...bare.value, bare.key, bare.headers], [0, 255, 128, 10, undefined, {}], 'the bare message')
    if (Math.abs(bare.timestamp - before) > 60_000) throw new Error(`The default timestamp is the time of add, got ${bare.timestamp}`)
  }),

  define('what is rolled back is not published', async (h, { start, until }) => {
    const broker = recorder()
    await start(moving(h, broker))
    await h
      .transaction(async (tx) => {
        await h.outbox.add(tx, [message('k', 'no'), { ...message('k', 'nor this'), deliverAt: 0 }])
        throw new Error('roll back')
      })
      .catch(() => undefined)
    await h.transaction((tx) => h.outbox.add(tx, message('k', 'yes')))
    await until(() => broker.sent.length > 0, 'the committed row')
    equal(broker.texts(), ['yes'], 'published')
    equal(await h.outbox.counts(h.db).then(({ delayed, parked }) => [delayed, parked]), [0, 0], 'left over')
  }),

  define(
    'rows of an open transaction are not published',
    async (h, { start, until }) => {
      const broker = recorder()
      await start(moving(h, broker))
      await h.transaction(async (tx) => {
        await h.outbox.add(tx, message('k', 'later'))
        await h.transaction((other) => h.outbox.add(other, message('other', 'now')))
        await until(() => broker.sent.length > 0, 'the other row')
        equal(broker.texts(), ['now'], 'published while the first transaction is open')
      })
      await until(() => broker.sent.length > 1, 'the row that committed late')
    },
    true,
  ),

  define(
    'a smaller id that commits later is not skipped, also when its key goes on afterwards',
    async (h, { start, until }) => {
      const broker = recorder()
      await start(moving(h, broker))
      for (let round = 0; round < 20; round++) {
        await h.transaction(async (early) => {
          await h.outbox.add(early, message('k', `early ${round}`))
          await h.transaction((late) => h.outbox.add(late, message(`other ${round}`, `overtakes ${round}`)))
          await until(() => broker.texts().includes(`overtakes ${round}`), 'the row that overtakes')
        })
        await h.transaction((tx) => h.outbox.add(tx, message('k', `after ${round}`)))
      }
      await until(() => broker.sent.length >= 60, 'all rows')
      equal(broker.texts('k'), Array.from({ length: 20 }, (_, n) => [`early ${n}`, `after ${n}`]).flat(), 'the key')
    },
    true,
  ),

  define('a key keeps its order across batches, transactions and several relays', async (h, { start, until }) => {
    const broker = recorder()
    const keys = Array.from({ length: 10 }, (_, n) => `k${n}`)
    const add = async (from: number, to: number): Promise<void> => {
      for (let n = from; n < to; n++)
        await h.transaction((tx) =>
          h.outbox.add(
            tx,
            keys.flatMap((key) => [message(key, `${n}a`), message(key, `${n}b`)]),
          ),
        )
    }
    await add(0, 5)
    const relays = await Promise.all(Array.from({ length: 3 }, () => start(moving(h, broker, { batch: 7, leaseMs: 60 }))))
    await add(5, 10)
    await until(() => broker.sent.length >= 200, 'all rows')
    for (const key of keys) equal(firsts(broker.texts(key)), Array.from({ length: 10 }, (_, n) => [`${n}a`, `${n}b`]).flat(), key)
    await until(() => relays.every((r) => r.stats().partitions > 0), 'the work to be shared')
  }),

  define('nothing is deleted before the broker confirmed it, and it is sent again under the same id', async (h, { start, until }) => {
    const seen: string[] = []
    let answer: PublishResult = { status: 'unknown' }
    const publishBatch = async (messages: readonly PublishedMessage[]): Promise<PublishResult[]> => {
      seen.push(...messages.map((m) => m.id))
      return messages.map(() => answer)
    }
    const first = await start(moving(h, { publishBatch }))
    const [id] = await h.transaction((tx) => h.outbox.add(tx, message('k', 'x')))
    await until(() => seen.length >= 3, 'three attempts')
    await first.close()
    equal((await h.outbox.counts(h.db)).pending, 1, 'pending after three unknown results and a close')
    answer = { status: 'stored' }
    await start(moving(h, { publishBatch }))
    await until(() => empty(h), 'the row to be deleted')
    equal([...new Set(seen)], [id], 'ids')
  }),

  define('a relay that dies between confirm and delete leaves the row to the next', async (h, { start, until }) => {
    const broker = recorder()
    await h.transaction((tx) => h.outbox.add(tx, [message('k', '1'), message('k', '2')]))
    const { leases, queue } = h.outbox.store
    const view = await leases.renew(h.db, 'dead', 40)
    const held = await leases.claim(h.db, 'dead', 40, view.free)
    const rows = await queue.next(h.db, {
      done: [],
      from: held.map(({ partition }) => ({ partition, low: 0 })),
      except: { lanes: [], topics: [] },
      limit: 10,
      limitBytes: 1e9,
    })
    equal(rows.map(text), ['1', '2'], 'read by the relay that dies')
    await start(moving(h, broker, { leaseMs: 40 }))
    await until(() => broker.sent.length >= 2, 'the next relay')
    equal(broker.texts(), ['1', '2'], 'published')
  }),

  define('a lease is exclusive until it ends, and raises its epoch; a stale epoch moves nothing', async (h, { until }) => {
    await h.transaction((tx) => h.outbox.add(tx, message('k', '1')))
    const { leases, queue } = h.outbox.store
    const view = await leases.renew(h.db, 'a', 60_000)
    const old = await leases.claim(h.db, 'a', 60_000, view.free)
    equal(old.length, view.partitions, 'claimed')
    equal((await leases.renew(h.db, 'b', 10_000)).free, [], 'free while held')
    equal(await leases.claim(h.db, 'b', 10_000, view.free), [], 'claimed while held')
    await leases.renew(h.db, 'a', 1)
    let taken: readonly { partition: number; epoch: number }[] = []
    await until(async () => (taken = [...taken, ...(await leases.claim(h.db, 'b', 10_000, view.free))]).length === view.partitions, 'the lease to end')
    if (!taken.every(({ partition, epoch }) => epoch > old.find((lease) => lease.partition === partition)!.epoch)) throw new Error('An epoch did not rise')
    const [row] = await queue.next(h.db, {
      done: [],
      from: taken.map(({ partition }) => ({ partition, low: 0 })),
      except: { lanes: [], topics: [] },
      limit: 1,
      limitBytes: 1e9,
    })
    const parking = [{ id: row!.id, partition: row!.partition, state: 'parked' as const, attempts: 1, error: { code: 'E', message: 'm' } }]
    equal(await queue.hold(h.db, old, parking), [], 'moved under the stale lease')
    equal(await queue.hold(h.db, taken, parking), [row!.id], 'moved under the lease')
    await h.outbox.parked(h.db).release([row!.id])
    equal((await queue.restore(h.db, old, { skip: false, known: undefined })).moved, 0, 'restored under the stale lease')
    equal((await queue.restore(h.db, taken, { skip: false, known: undefined })).moved, 1, 'restored under the lease')
    await leases.release(h.db, 'b', taken, true)
    const again = await leases.claim(h.db, 'b', 10_000, view.free)
    equal(again.length, view.partitions, 'free after leaving')
    await leases.release(h.db, 'b', taken, true)
    equal((await leases.renew(h.db, 'c', 40)).free, [], 'given back by a release that came late')
  }),

  define('a poison row is parked with its reason and blocks its key alone; released, the key goes on in order', async (h, { start, until }) => {
    let mended = false
    const broker = recorder((m) => (text(m) === 'poison' && !mended ? refused(false) : undefined))
    await start(moving(h, broker, { maxAttempts: 3, batch: 4 }))
    await h.transaction((tx) =>
      h.outbox.add(
        tx,
        ['1', 'poison', '2', '3'].map((v) => message('bad', v)),
      ),
    )
    for (let n = 0; n < 10; n++) await h.transaction((tx) => h.outbox.add(tx, message(`good ${n}`, 'x')))
    await until(async () => (await h.outbox.counts(h.db)).blocked === 2 && broker.sent.length === 11, 'the row parked, two behind it, all others published')
    await h.transaction((tx) => h.outbox.add(tx, message('bad', '4')))
    await until(async () => (await h.outbox.counts(h.db)).blocked === 3, 'a new row of the key to wait too')
    // A due row is brought back by the look that could free the key by mistake: once it is published, that look is over.
    await h.transaction((tx) => h.outbox.add(tx, { ...message('due', 'x'), deliverAt: 0 }))
    await until(() => broker.texts('due').length === 1, 'a due row')
    await until(async () => (await h.outbox.counts(h.db)).pending === 0, 'nothing else to be pending')
    equal(broker.texts('bad'), ['1'], 'published of the blocked key')
    const [row] = await h.outbox.parked(h.db).list()
    equal([row!.topic, row!.key, row!.attempts, row!.error, row!.blocked], ['contract', 'bad', 3, { code: 'ERR_NO', message: 'no' }, 3], 'the parked row')
    mended = true
    equal(await h.outbox.parked(h.db).release([row!.id, 12_345_678]), [row!.id], 'released')
    await h.transaction((tx) => h.outbox.add(tx, message('bad', '5')))
    await until(() => broker.texts('bad').length >= 6, 'the key to go on')
    equal(broker.texts('bad'), ['1', 'poison', '2', '3', '4', '5'], 'the key')
    await until(async () => Object.values(await h.outbox.counts(h.db)).every((n) => n === 0), 'nothing to be left')
  }),

  define('a parked row that is discarded lets its key go on without it', async (h, { start, until }) => {
    // Who refuses a body may quote it, NUL and all.
    const binary: PublishResult = { status: 'rejected', error: Object.assign(new Error('no \0'), { code: 'ERR_\0', retryable: false }) }
    const broker = recorder((m) => (text(m) === 'poison' ? binary : undefined))
    await start(moving(h, broker, { maxAttempts: 1 }))
    await h.transaction((tx) =>
      h.outbox.add(
        tx,
        ['poison', '1', '2'].map((v) => message('bad', v)),
      ),
    )
    await until(async () => (await h.outbox.counts(h.db)).blocked === 2, 'the key to be blocked')
    const [row] = await h.outbox.parked(h.db).list()
    equal(await h.outbox.parked(h.db).discard([row!.id]), [row!.id], 'discarded')
    equal(await h.outbox.parked(h.db).discard([row!.id]), [], 'discarded again')
    await until(() => broker.texts('bad').length >= 2, 'the key to go on')
    equal(broker.texts('bad'), ['1', '2'], 'the key')
  }),

  define("with onPark 'skip-key' the key goes on, and the parked row is sent when released", async (h, { start, until }) => {
    let mended = false
    const broker = recorder((m) => (text(m) === 'poison' && !mended ? refused(false) : undefined))
    await start(moving(h, broker, { maxAttempts: 1, onPark: 'skip-key' }))
    await h.transaction((tx) =>
      h.outbox.add(
        tx,
        ['poison', '1', '2'].map((v) => message('bad', v)),
      ),
    )
    for (let n = 3; n < 20; n++) {
      await until(() => broker.texts('bad').length === n - 1, 'the key to go on')
      await h.transaction((tx) => h.outbox.add(tx, message('bad', String(n))))
    }
    const parked = await h.outbox.parked(h.db).list()
    mended = true
    await h.outbox.parked(h.db).release(parked.map((row) => row.id))
    await until(() => broker.texts('bad').length === 20, 'the released row')
    equal(broker.texts('bad').toSorted(), [...Array.from({ length: 19 }, (_, n) => String(n + 1)), 'poison'].toSorted(), 'the key')
    equal((await h.outbox.counts(h.db)).blocked, 0, 'blocked')
  }),

  define('a due row joins the end of its key, and not before it is due', async (h, { start, until }) => {
    const early: string[] = []
    const broker = recorder((m) => {
      if (text(m).endsWith('due') && Date.now() < m.timestamp) early.push(text(m))
      return undefined
    })
    const at = Date.now() + 250
    await h.transaction(async (tx) => {
      await h.outbox.add(tx, { ...message('k', 'second due'), deliverAt: at + 50 })
      await h.outbox.add(tx, message('k', 'first due'), { deliverAt: at })
      await h.outbox.add(tx, message('k', 'at once'))
    })
    equal((await h.outbox.counts(h.db)).delayed, 2, 'delayed')
    await start(moving(h, broker))
    await until(() => broker.sent.length >= 3, 'all rows')
    equal(broker.texts(), ['at once', 'first due', 'second due'], 'published')
    equal(early, [], 'published before it was due')
    equal(
      broker.sent.slice(1).map((m) => m.timestamp),
      [at, at + 50],
      'timestamps are the due times',
    )
  }),

  define('a look returns the rows of the partitions that it names, whichever and however many, by id and from above the id given', async (h) => {
    await h.transaction((tx) =>
      h.outbox.add(
        tx,
        Array.from({ length: 60 }, (_, n) => message(`k${n % 12}`, String(n))),
      ),
    )
    const { queue } = h.outbox.store
    const look = async (partitions: readonly number[], low = 0, lanes: readonly string[] = [], limit = 100): Promise<readonly Row[]> => {
      const from = partitions.map((partition) => ({ partition, low }))
      const [rows, others] = await Promise.all(
        [false, true].map((few) => queue.next(h.db, { done: [], from, except: { lanes, topics: [] }, limit, limitBytes: 1e9, few })),
      )
      equal(ids(others!), ids(rows!), 'the same where few are expected')
      return rows!
    }
    const ids = (rows: readonly Row[]): number[] => rows.map((row) => row.id)
    const all = await look(Array.from({ length: 16 }, (_, partition) => partition))
    equal(all.length, 60, 'rows')
    equal(
      ids(all),
      ids(all).toSorted((a, b) => a - b),
      'their order',
    )
    const own = [...new Set(all.map((row) => row.partition))]
    for (const partitions of [own.slice(0, 1), own.slice(0, 2).toReversed(), own.slice(1), []]) {
      const mine = all.filter((row) => partitions.includes(row.partition))
      const { lane = '' } = mine[0] ?? {}
      equal(ids(await look(partitions)), ids(mine), `partitions ${partitions.join(', ')}`)
      equal(ids(await look(partitions, 0, [], 3)), ids(mine.slice(0, 3)), 'at most three of them')
      equal(ids(await look(partitions, all[29]!.id)), ids(mine.filter((row) => row.id > all[29]!.id)), 'above an id')
      equal(ids(await look(partitions, 0, [lane])), ids(mine.filter((row) => row.lane !== lane)), 'without a lane')
    }
    await h.transaction((tx) => h.outbox.add(tx, { ...message('k', 'other'), topic: 'other' }))
    const from = Array.from({ length: 16 }, (_, partition) => ({ partition, low: 0 }))
    const others = await queue.next(h.db, { done: [], from, except: { lanes: [], topics: ['contract', 'none'] }, limit: 100, limitBytes: 1e9 })
    equal(others.map(text), ['other'], 'without a topic')
    const upTo = all[9]!.id
    const first = await queue.next(h.db, { done: [], from, upTo, except: { lanes: [], topics: ['other'] }, limit: 100, limitBytes: 1e9 })
    equal(ids(first), ids(all.slice(0, 10)), 'up to an id')
  }),

  define('a look ends with the row whose body reaches the bytes asked for', async (h) => {
    const sizes = [100_000, 3_000, 0, 20_000, 1]
    await h.transaction((tx) =>
      h.outbox.add(
        tx,
        sizes.map((size, n) => ({ topic: 'contract', key: `k${n}`, value: new Uint8Array(size) })),
      ),
    )
    const from = Array.from({ length: 16 }, (_, partition) => ({ partition, low: 0 }))
    for (const [limitBytes, rows] of [
      [1, 1],
      [100_000, 1],
      [100_001, 2],
      [103_000, 2],
      [103_001, 4],
      [123_001, 5],
      [1e9, 5],
    ] as const) {
      const found = await h.outbox.store.queue.next(h.db, { done: [], from, except: { lanes: [], topics: [] }, limit: 100, limitBytes })
      equal(
        found.map((row) => row.value.length),
        sizes.slice(0, rows),
        `bodies up to ${limitBytes} bytes`,
      )
    }
  }),

  ...restoreCases,
  ...inboxCases,
]

const firsts = (texts: readonly string[]): string[] => [...new Set(texts)]
