import type { Restored, Row } from './store.ts'
import { define, empty, equal, message, moving, recorder, refused, text, type ContractCase } from './contract-tools.ts'

/** What was set aside comes back in order, however much it is. */
export const restoreCases: readonly ContractCase[] = [
  define('many rows that waited behind a parked one come back in steps, and what is younger waits until its turn', async (h) => {
    const { leases, queue } = h.outbox.store
    const held = await leases.claim(h.db, 'a', 60_000, (await leases.renew(h.db, 'a', 60_000)).free)
    const from = held.map(({ partition }) => ({ partition, low: 0 }))
    const look = (): Promise<readonly Row[]> =>
      queue
        .next(h.db, { done: [], from, except: { lanes: [], topics: [] }, limit: 5_000, limitBytes: 1e9 })
        .then((all) => all.filter((row) => row.key === 'bad'))
    const aside = (given: readonly Row[], state: 'blocked' | 'parked'): Promise<unknown> =>
      queue.hold(
        h.db,
        held,
        given.map(({ id, partition }) => ({ id, partition, state, attempts: 1, error: { code: 'E', message: 'm' } })),
      )
    let known: Restored['blocked'] | undefined
    const step = async (): Promise<[moved: number, blocked: [string, number][]]> => {
      const { moved, blocked } = await queue.restore(h.db, held, { skip: false, known })
      known = blocked
      return [moved, [...blocked]]
    }
    const lane = 'contract/bad'

    await h.transaction((tx) =>
      h.outbox.add(
        tx,
        Array.from({ length: 2_500 }, (_, n) => message('bad', String(n))),
      ),
    )
    const all = await look()
    const ids = all.map((row) => row.id)
    await aside(all.slice(0, 1), 'parked')
    await aside(all.slice(1), 'blocked')
    equal(await step(), [0, [[lane, ids[0]]]], 'while it is parked')
    await h.outbox.parked(h.db).release([ids[0]!])
    equal(await step(), [1_000, [[lane, ids[1_000]]]], 'the first step')
    const back = await look()
    equal(
      back.map((row) => row.id),
      ids.slice(0, 1_000),
      'the rows of the first step',
    )

    await aside(back.slice(5, 6), 'parked')
    known = new Map([[lane, ids[5]!]])
    equal(await step(), [0, [[lane, ids[5]]]], 'parked again meanwhile')
    await aside(back.slice(6), 'blocked')
    known = undefined
    equal(await step(), [0, [[lane, ids[5]]]], 'seen by another')
    await h.outbox.parked(h.db).release([ids[5]!])
    equal(
      [await step(), await step()],
      [
        [1_000, [[lane, ids[1_005]]]],
        [1_000, [[lane, ids[2_005]]]],
      ],
      'released again',
    )
    equal(
      [await step(), await step()],
      [
        [495, []],
        [0, []],
      ],
      'the last steps',
    )
    equal(
      (await look()).map((row) => row.id),
      ids,
      'all in their old places',
    )

    for (const [n, what] of ['the same relay', 'another'].entries()) {
      await aside(all.slice(n, n + 1), 'parked')
      await aside(all.slice(n + 1, n + 3), 'blocked')
      await step()
      await h.outbox.parked(h.db).discard([ids[n]!])
      if (what === 'another') known = undefined
      equal(await step(), [2, []], `freed by a discard, seen by ${what}`)
    }
    await aside(all.slice(2, 3), 'parked')
    await aside(all.slice(3), 'blocked')
    const { blocked } = await queue.restore(h.db, held, { skip: true, known: undefined })
    equal([[...blocked], (await look()).map((row) => row.id)], [[], ids.slice(3)], 'no longer kept back: all of it, so that nothing newer goes first')
    equal((await h.outbox.counts(h.db)).blocked, 0, 'left')
  }),

  define('a message without a key has nothing to do with a key that its id looks like', async (h, { start, until }) => {
    const broker = recorder((m) => (m.key === '1' ? refused(false) : undefined))
    await start(moving(h, broker, { maxAttempts: 1 }))
    await h.transaction((tx) => h.outbox.add(tx, message('1', 'poison')))
    await until(async () => (await h.outbox.counts(h.db)).parked === 1, 'the key to be blocked')
    await h.transaction((tx) => h.outbox.add(tx, { ...message(undefined, 'free'), id: 'contract/1' }))
    await until(async () => (await empty(h)) && (await h.outbox.counts(h.db)).blocked === 0, 'the other to be taken up')
    equal(broker.texts(), ['free'], 'published')
  }),

  define('a look leaves out a message without a key by its own lane alone', async (h) => {
    const { queue } = h.outbox.store
    const from = Array.from({ length: 16 }, (_, partition) => ({ partition, low: 0 }))
    const look = (lanes: readonly string[]): Promise<readonly Row[]> =>
      queue.next(h.db, { done: [], from, except: { lanes, topics: [] }, limit: 9, limitBytes: 1e9 })
    await h.transaction((tx) => h.outbox.add(tx, [message('1', 'keyed'), { ...message(undefined, 'bare'), id: 'contract/1' }]))
    const [keyed, bare] = await look([])
    equal((await look([keyed!.lane])).map(text), ['bare'], 'without the key')
    equal((await look([bare!.lane])).map(text), ['keyed'], 'without the other')
  }),
]
