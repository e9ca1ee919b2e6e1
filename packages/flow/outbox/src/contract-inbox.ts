import { systemClock } from '#internal/clock'
import { define, equal, message, type ContractCase } from './contract-tools.ts'

/** What an inbox must do, in one transaction with an outbox. */
export const inboxCases: readonly ContractCase[] = [
  define('the inbox runs a handler once a message, and the effect commits with the record', async (h) => {
    const at = { id: 'm', timestamp: Date.now() }
    const runs: string[] = []
    const run = (handler: string): Promise<unknown> =>
      h.transaction((tx) =>
        h.inbox.once(tx, at, handler, async () => {
          runs.push(handler)
          await h.outbox.add(tx, message('effect', handler))
          return runs.length
        }),
      )
    equal(await run('a'), { duplicate: false, value: 1 }, 'first')
    equal(await run('a'), { duplicate: true }, 'second')
    equal(await run('b'), { duplicate: false, value: 2 }, 'another handler')
    equal((await h.outbox.counts(h.db)).pending, 2, 'effects')
  }),

  define('of several handlers in one transaction those run that have not handled the message, all or none', async (h) => {
    const { run, runTogether } = h.inbox.runner(h.transaction)
    const at = { id: 'm', timestamp: Date.now() }
    const together = (fail = false): Promise<unknown> =>
      runTogether(at, ['a', 'b', 'c'], async (tx, handlers) => {
        for (const handler of handlers) await h.outbox.add(tx, message('effect', handler))
        if (fail) throw new Error('handler')
        return handlers
      }).catch((error: Error) => error.message)
    await run(at, 'b', async () => undefined)
    equal(await together(true), 'handler', 'a failure')
    equal((await h.outbox.counts(h.db)).pending, 0, 'effects of the failure')
    equal(await together(), { duplicate: false, value: ['a', 'c'] }, 'those that have not')
    equal(await together(), { duplicate: true }, 'all have')
    equal(await run(at, 'c', async () => undefined), { duplicate: true }, 'each has its record')
    equal((await h.outbox.counts(h.db)).pending, 2, 'effects')
  }),

  define('handlers that share a transaction take nothing back of each other: a call of once is refused, though its error is hidden', async (h) => {
    const { runTogether } = h.inbox.runner(h.transaction)
    const run = runTogether({ id: 'm', timestamp: Date.now() }, ['a', 'b'], async (tx) => {
      await h.outbox.add(tx, message('effect', 'b'))
      await h.inbox.once(tx, 'n', 'within', async () => undefined).catch(() => undefined)
    })
    equal(await run.catch((error: Error) => error.name), 'TypeError', 'the run')
    equal((await h.outbox.counts(h.db)).pending, 0, 'effects')
    equal(await h.transaction((tx) => h.inbox.once(tx, 'm', 'a', async () => 'ran')), { duplicate: false, value: 'ran' }, 'records')
  }),

  define('a handler that throws leaves neither effect nor record, and its transaction can go on', async (h) => {
    const failing = async (): Promise<never> => Promise.reject(new Error('handler'))
    await h.transaction(async (tx) => {
      await h.outbox.add(tx, message('k', 'kept'))
      const thrown = await h.inbox
        .once(tx, 'm', 'a', async () => {
          await h.outbox.add(tx, message('k', 'undone'))
          return failing()
        })
        .catch((error: Error) => error.message)
      equal(thrown, 'handler', 'thrown')
      await h.outbox.add(tx, message('k', 'kept too'))
    })
    equal((await h.outbox.counts(h.db)).pending, 2, 'rows')
    equal(await h.transaction((tx) => h.inbox.once(tx, 'm', 'a', async () => 'ran')), { duplicate: false, value: 'ran' }, 'again')
    await h.transaction((tx) => h.inbox.once(tx, 'n', 'a', async () => 0).then(failing)).catch(() => undefined)
    equal(await h.transaction((tx) => h.inbox.once(tx, 'n', 'a', async () => 'ran')), { duplicate: false, value: 'ran' }, 'after a rollback')
  }),

  define('calls of one transaction at the same time do not undo each other, and one may stand within another', async (h) => {
    await h.transaction(async (tx) => {
      const call = (id: string, fails: boolean): Promise<unknown> =>
        h.inbox
          .once(tx, id, 'a', async () => {
            await systemClock.sleep(2)
            await h.inbox.once(tx, `${id} within`, 'a', () => h.outbox.add(tx, message('k', id)))
            if (fails) throw new Error('handler')
          })
          .catch(() => undefined)
      await Promise.all([call('m', true), call('n', false), call('o', true), call('p', false)])
    })
    const again = async (id: string): Promise<boolean> => (await h.transaction((tx) => h.inbox.once(tx, id, 'a', async () => 0))).duplicate
    for (const [id, duplicate] of Object.entries({ m: false, n: true, o: false, p: true })) {
      equal(await again(id), duplicate, id)
      equal(await again(`${id} within`), duplicate, `within ${id}`)
    }
    equal((await h.outbox.counts(h.db)).pending, 2, 'effects')
  }),

  define(
    'of concurrent duplicates one runs; when it fails, the next',
    async (h) => {
      let runs = 0
      const deliver = (fail: boolean): Promise<unknown> =>
        h
          .transaction((tx) =>
            h.inbox.once(tx, 'm', 'a', async () => {
              runs++
              await systemClock.sleep(5)
              if (fail) throw new Error('first')
            }),
          )
          .catch(() => 'failed')
      const outcomes = await Promise.all([deliver(true), ...Array.from({ length: 4 }, () => deliver(false))])
      equal(outcomes.filter((o) => (o as { duplicate?: boolean }).duplicate === false).length, 1, 'runs that took effect')
      if (runs > 2) throw new Error(`The handler ran ${runs} times, at most the failed one and one other were due`)
    },
    true,
  ),

  define('a message that is older than the inbox remembers is not run, unless its record is there', async (h) => {
    const old = { id: 'old', timestamp: Date.now() - 120_000 }
    const run = (m: { id: string; timestamp: number }): Promise<unknown> =>
      h.transaction((tx) => h.inbox.once(tx, m, 'a', async () => 'ran')).catch((error: { code: string; retryable: boolean }) => [error.code, error.retryable])
    equal(await run(old), ['ERR_INBOX_TOO_OLD', false], 'without a record')
    equal(await run(old), ['ERR_INBOX_TOO_OLD', false], 'it left no record')
    equal(await run({ ...old, timestamp: Date.now() - 30_000 }), { duplicate: false, value: 'ran' }, 'within the retention')
    equal(await run(old), { duplicate: true }, 'with a record')
  }),

  define('cleanup keeps what is still needed', async (h) => {
    await h.transaction((tx) => h.inbox.once(tx, 'm', 'a', async () => 0))
    equal(await h.inbox.cleanup(h.db), 0, 'deleted')
    equal(await h.transaction((tx) => h.inbox.once(tx, 'm', 'a', async () => 0)), { duplicate: true }, 'still known')
  }),
]
