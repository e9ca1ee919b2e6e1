import type { Restored, Row } from './store.ts'
import { define, equal, message, type ContractCase } from './contract-tools.ts'

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
    equal((await h.outbox.counts(h.db)).blocked, 0, 'left')
  }),
]
