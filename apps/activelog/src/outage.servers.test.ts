// What takes as long as a patience with the database.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openDatabase as openTestDatabase } from '@core-backend/testkit/postgres'
import { tcpProxy } from '@core-backend/testkit/tcp-proxy'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { isBusy, isUnavailable, openDatabase } from './infrastructure/database.ts'
import { startService } from './service.fixture.ts'

test('a crowd that waits for a lock takes every connection of the requests: the process stays ready, and nobody is told of an outage', async (t) => {
  const told: string[] = []
  const { ask, database } = await startService(t, undefined, {}, (_, text) => void told.push(text))
  const [locked, unlock] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const locking = database.transaction(async (tx) => {
    await tx.query('LOCK TABLE tenant_acme.activities')
    locked.resolve()
    await unlock.promise
  })
  await locked.promise
  const crowd = Promise.all(Array.from({ length: 64 }, () => ask('GET', '/activities')))
  await waitUntil(async () => {
    const { rows } = await database.client.query(
      "SELECT count(*)::integer AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation'",
    )
    return (rows as [{ n: number }])[0].n === 16
  })
  const [ready, health] = [await ask('GET', '/readyz'), await ask('GET', '/health')]
  const answers = await crowd
  unlock.resolve()
  await locking
  assert.deepEqual([ready.status, health.json['status']], [200, 'ok'])
  assert.deepEqual(new Set(answers.map(({ status, headers }) => `${status} ${headers.get('retry-after')}`)), new Set(['503 1']))
  assert.deepEqual(
    new Set(answers.map(({ json }) => json['detail'])),
    new Set(['Somebody holds a lock on what this needs; try again', 'All connections are in use; try again']),
  )
  assert.deepEqual(new Set(told), new Set(['Request failed']))
})

test('a server that has gone silent does not hold up the end, whatever waits for it', async () => {
  const test = await openTestDatabase('pg18')
  const proxy = await tcpProxy(Number(new URL(test.url!).port))
  const db = openDatabase(Object.assign(new URL(test.url!), { port: String(proxy.port) }).href, { name: 'test' })
  await Promise.all([db.query('SELECT 1'), db.query('SELECT 1')])
  proxy.stall('both')
  const asked = db.query('SELECT 1')
  asked.catch(() => {})
  await db.close()
  await assert.rejects(asked, (error) => isUnavailable(error) || isBusy(error))
  await proxy.close()
  await test.close()
})
