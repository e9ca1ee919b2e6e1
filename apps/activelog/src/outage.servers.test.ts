// What takes as long as a patience with the database.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openDatabase as openTestDatabase } from '@core-backend/testkit/postgres'
import { tcpProxy } from '@core-backend/testkit/tcp-proxy'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { isBusy, isUnavailable, openDatabase } from './infrastructure/database.ts'
import { fromEnv } from './infrastructure/settings.ts'
import { startActivelog } from './main.ts'
import { draft, lockTable, startService } from './service.fixture.ts'

const quiet = { debug() {}, info() {}, warn() {}, error() {} }

test('a crowd that waits for a lock takes every connection of the requests: the process stays ready, and nobody is told of an outage', async (t) => {
  const told: string[] = []
  const { ask, database } = await startService(t, undefined, {}, (_, text) => void told.push(text))
  const unlock = await lockTable(database, 'tenant_acme.activities')
  const crowd = Promise.all(Array.from({ length: 64 }, () => ask('GET', '/activities')))
  await waitUntil(async () => {
    const { rows } = await database.client.query(
      "SELECT count(*)::integer AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation'",
    )
    return (rows as [{ n: number }])[0].n === 16
  })
  const [ready, health] = [await ask('GET', '/readyz'), await ask('GET', '/health')]
  const answers = await crowd
  await unlock()
  assert.deepEqual([ready.status, health.json['status']], [200, 'ok'])
  assert.deepEqual(new Set(answers.map(({ status, headers }) => `${status} ${headers.get('retry-after')}`)), new Set(['503 1']))
  assert.deepEqual(
    new Set(answers.map(({ json }) => json['detail'])),
    new Set(['Somebody holds a lock on what this needs; try again', 'All connections are in use; try again']),
  )
  assert.deepEqual(told.toSorted(), ['Requests are refused: all connections are in use', 'Requests are refused: somebody holds a lock'])
})

test('who asks how the service is while a table is locked takes nothing from those who work, nor from each other', async (t) => {
  const told: string[] = []
  const { ask, database } = await startService(t, undefined, {}, (_, text) => void told.push(text))
  await database.transaction(async (tx) => {
    await tx.query('LOCK TABLE activelog.outbox')
    const asked = ['/health', '/health', '/metrics'].flatMap((path) => Array.from({ length: 8 }, () => ask('GET', path)))
    const answers = await Promise.all(asked)
    const { rows } = await database.client.query(
      "SELECT count(*)::integer AS n FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'activelog background' AND wait_event = 'relation'",
    )
    assert.ok((rows as [{ n: number }])[0].n <= 3, 'the relay alone')
    assert.deepEqual(
      answers.slice(16).map(({ status }) => status),
      Array.from({ length: 8 }, () => 200),
    )
    assert.equal((await ask('GET', '/readyz')).status, 200)
    assert.equal((await ask('GET', '/activities')).status, 200)
  })
  assert.ok(!told.some((text) => text.startsWith('The database is')), told.join())
})

test("a handler that waits for a lock on one tenant's table does not hold up the streams of the others for as long, and its event is handled", async (t) => {
  const { ask, database, url } = await startService(t)
  const stop = new AbortController()
  t.after(() => stop.abort())
  const { body } = await fetch(`${url}/events`, { headers: { 'x-tenant-id': 'acme' }, signal: stop.signal })
  let text = ''
  void (async () => {
    for await (const chunk of body!) text += Buffer.from(chunk).toString()
  })().catch(() => {})
  await database.transaction(async (tx) => {
    // A lock that has no transaction number of its own, as an exclusive one would.
    await tx.query('LOCK TABLE tenant_globex.day_sums IN SHARE MODE')
    await ask('POST', '/activities', { tenant: 'globex', body: draft })
    await waitUntil(async () => {
      const { rows } = await database.client.query(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'activelog background' AND wait_event = 'relation'",
      )
      return rows.length > 0
    })
    for (let n = 0; n < 3; n++) await ask('POST', '/activities', { body: draft })
    await waitUntil(() => text.match(/^event: /gm)?.length === 3)
  })
  await waitUntil(async () => (await ask('GET', '/users/1/stats', { tenant: 'globex' })).json['activities'] === 1)
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

test('a start waits for a table of the broker that somebody else has locked, and says so', async (t) => {
  let unlock: (() => Promise<void>) | undefined
  const lockFirst = async (url: string): Promise<string> => {
    const first = await startActivelog(fromEnv({ DATABASE_URL: url, PORT: '0' }), { logger: quiet })
    await first.close()
    const other = openDatabase(url, { name: 'other' })
    t.after(() => other.close())
    unlock = await lockTable(other, 'activelog.groups')
    return url
  }
  const told: string[] = []
  const { ask } = await startService(t, lockFirst, {}, (_, text) => {
    told.push(text)
    void unlock?.()
  }).finally(() => void unlock?.())
  await unlock!()
  assert.deepEqual(told, ['The start waits for a lock that somebody else holds'])
  assert.equal((await ask('GET', '/readyz')).status, 200)
})
