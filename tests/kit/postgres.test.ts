import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Flavour, openDatabase } from './postgres.ts'
import { type ServiceName, skipUnless } from './services.ts'
import { waitUntil } from './wait-until.ts'

const needs: Record<Flavour, ServiceName | undefined> = { pg18: undefined, pg15: 'postgres15', pglite: undefined, pgbouncer: 'pgbouncer' }

for (const [flavour, server] of Object.entries(needs) as [Flavour, ServiceName | undefined][]) {
  test(
    `${flavour}: a database of one's own, with transactions that commit or roll back, and what it hears`,
    { skip: server !== undefined && skipUnless(server) },
    async () => {
      const db = await openDatabase(flavour)
      const heard: string[] = []
      const unlisten = await db.listen?.('news', (payload) => heard.push(payload))
      await db.client.query('CREATE TABLE t (n int)')
      await db.transaction((tx) => tx.query('INSERT INTO t VALUES ($1)', [1]))
      const failing = db.transaction(async (tx) => {
        await tx.query('INSERT INTO t VALUES (2)')
        throw new Error('no')
      })
      await assert.rejects(failing, { message: 'no' })
      const hiding = db.transaction(async (tx) => {
        await tx.query('INSERT INTO t VALUES (3)')
        await tx.query('SELECT 1 / 0').catch(() => undefined)
      })
      await assert.rejects(hiding)
      assert.deepEqual((await db.client.query('SELECT n FROM t')).rows, [{ n: 1 }])
      if (unlisten) {
        await db.client.query(`SELECT pg_notify('news', 'hello')`)
        await waitUntil(() => heard.length === 1)
        await unlisten()
      }
      await db.close()
      await db.close()
    },
  )
}

test('a server that is named but missing is skipped with a reason, and is a failure under REQUIRE_SERVICES', () => {
  const before = process.env['REQUIRE_SERVICES']
  try {
    delete process.env['REQUIRE_SERVICES']
    assert.match(String(skipUnless('no-such' as ServiceName)), /no-such: unknown server/)
    process.env['REQUIRE_SERVICES'] = 'all'
    assert.throws(() => skipUnless('no-such' as ServiceName), /no-such is not covered/)
  } finally {
    if (before === undefined) delete process.env['REQUIRE_SERVICES']
    else process.env['REQUIRE_SERVICES'] = before
  }
})
