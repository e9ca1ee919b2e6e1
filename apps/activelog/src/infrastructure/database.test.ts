import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { openDatabase as openTestDatabase } from '@core-backend/testkit/postgres'
import { openDatabase } from './database.ts'

test('statements of a turn leave in one write, BEGIN among them, and each gets its own answer', async (t) => {
  const test = await openTestDatabase('pg18')
  const db = openDatabase(test.url!, { name: 'test', max: 1 })
  t.after(async () => {
    await db.close()
    await test.close()
  })
  await db.query('SELECT 1')
  const client = await db.pool.connect()
  const { stream } = (client as unknown as { connection: { stream: Socket } }).connection
  client.release()
  let writes = 0
  for (const method of ['_write', '_writev'] as const) {
    const real = stream[method]!.bind(stream) as (...given: unknown[]) => void
    stream[method] = (...given: unknown[]) => {
      writes++
      real(...given)
    }
  }
  const results = await db.transaction((tx) =>
    Promise.allSettled([tx.query('SELECT $1::int AS n', [1]), tx.query('SELECT $1::int AS n', [2]), tx.query('SELECT now() IS NOT NULL AS n')]),
  )
  assert.deepEqual(
    results.map((result) => result.status === 'fulfilled' && result.value.rows),
    [[{ n: 1 }], [{ n: 2 }], [{ n: true }]],
  )
  assert.equal(writes, 2, 'one for the statements, one for COMMIT')
  await db.transaction(async (tx) => {
    await tx.query('SELECT $1::int AS n', [3])
    await tx.query('SELECT $1::int AS n', [4])
  })
  assert.equal(writes, 5, 'what waits for an answer is a write of its own')
  await assert.rejects(
    db.transaction((tx) => Promise.all([tx.query('SELECT 1 / 0'), tx.query('SELECT $1::int AS n', [5])])),
    { code: '22012' },
  )
  assert.deepEqual((await db.query('SELECT 1 AS n')).rows, [{ n: 1 }])
})
