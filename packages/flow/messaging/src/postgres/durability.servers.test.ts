import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openDatabase } from '@core-backend/testkit/postgres'
import { skipUnless } from '@core-backend/testkit/services'
import { member, never, outgoing } from '../postgres.fixture.ts'
import { postgresDriver } from '../postgres.ts'

// On a server with synchronous_commit on, which the quick clusters of the other suites have not.
test('what is published and settled is on disk when it resolves; handing over waits for no disk', { skip: skipUnless('postgres15') }, async () => {
  await using db = await openDatabase('pg15')
  const driver = postgresDriver({ client: db.client, leaseMs: 3_600_000 })
  const { rows } = await db.client.query(`SELECT current_setting('synchronous_commit') AS on`)
  assert.deepEqual(rows, [{ on: 'on' }])
  await driver.admin.createTopic('orders', { partitions: 1, keep: false, maxAgeMs: undefined })
  await driver.admin.createGroup('orders', 'g', 'earliest')
  const reader = await member(driver, 'orders', 'g')

  /** Whether all that was written to the log before `work` and by it is flushed right after. */
  const flushed = async (work: () => Promise<unknown>): Promise<boolean> => {
    const before = (await db.client.query('SELECT pg_current_wal_insert_lsn()::text AS at')).rows as { at: string }[]
    await work()
    const after = (await db.client.query('SELECT pg_current_wal_flush_lsn() > $1::pg_lsn AS flushed', [before[0]!.at])).rows as { flushed: boolean }[]
    return after[0]!.flushed
  }

  const fetches: boolean[] = []
  for (let i = 0; i < 20; i++) {
    assert.equal(await flushed(() => driver.publish([outgoing('orders', String(i))], { signal: never })), true)
    let delivery: Awaited<ReturnType<typeof reader.take>> = []
    fetches.push(
      await flushed(async () => {
        delivery = await reader.take(1)
      }),
    )
    assert.equal(await flushed(() => reader.settle(delivery)), true)
  }
  // The server's own writer may come in between, but not every time.
  assert.ok(fetches.includes(false), 'every fetch waited for the disk')
  await reader.leave()
  await driver.close()
})
