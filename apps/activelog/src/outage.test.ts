import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tcpProxy } from '@core-backend/testkit/tcp-proxy'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { isUnavailable } from './infrastructure/database.ts'
import { draft, lockTable, startService } from './service.fixture.ts'

const rootsOf = (error: unknown): unknown[] => (error instanceof Error ? [error, ...rootsOf(error.cause)] : [])

test('while the database is away requests are told to come back; afterwards everything goes on and nothing was lost', async (t) => {
  let proxy: Awaited<ReturnType<typeof tcpProxy>> | undefined
  const told: { text: string; err?: unknown }[] = []
  const { ask } = await startService(
    t,
    async (url) => {
      proxy = await tcpProxy(Number(new URL(url).port))
      return Object.assign(new URL(url), { port: String(proxy.port) }).href
    },
    {},
    (fields, text) => void told.push({ ...fields, text }),
  )
  t.after(() => proxy?.close())
  const post = (n: number): ReturnType<typeof ask> =>
    ask('POST', '/activities', { body: { ...draft, durationMinutes: n }, headers: { 'idempotency-key': `outage-${n}` } })
  assert.equal((await post(1)).status, 201)

  proxy!.refuse()
  for (const answer of [await post(2), await ask('GET', '/users/1/stats'), await ask('GET', '/readyz'), await ask('GET', '/events')])
    assert.equal(answer.status, 503, JSON.stringify(answer.json))
  const refused = await post(2)
  assert.equal(refused.headers.get('retry-after'), '1')
  assert.equal(refused.json['title'], 'Service Unavailable')
  assert.equal((await ask('GET', '/healthz')).status, 200)

  assert.equal(told[0]?.text, 'The database is away')

  proxy!.pass()
  await waitUntil(async () => (await post(2)).status === 201)
  // Cut in the middle of everything: whatever the answers are, a repetition brings it to one.
  const crowd = Array.from({ length: 20 }, (_, n) => post(n + 3).catch(() => undefined))
  proxy!.reset()
  await Promise.all(crowd)
  for (let n = 3; n < 23; n++) await waitUntil(async () => (await post(n)).status === 201)
  const total = (22 * 23) / 2
  await waitUntil(async () => (await ask('GET', '/users/1/stats')).json['totalMinutes'] === total, { guardMs: 60_000, what: `${total} minutes` })
  assert.equal((await ask('GET', '/users/1/stats')).json['activities'], 22)
  assert.equal((await ask('GET', '/readyz')).status, 200)
  assert.deepEqual(
    told.filter(({ err }) => rootsOf(err).some(isUnavailable)),
    [],
    'what the outage makes fail has no line of its own',
  )
})

test('who needs what somebody else has locked is told to come back, and a repetition is done once', async (t) => {
  const { ask, database } = await startService(t)
  const post = (): ReturnType<typeof ask> => ask('POST', '/activities', { body: draft, headers: { 'idempotency-key': 'locked' } })
  const unlock = await lockTable(database, 'tenant_acme.activities')
  const refused = await post()
  assert.deepEqual([refused.status, refused.headers.get('retry-after')], [503, '1'])
  assert.match(String(refused.json['detail']), /holds a lock/)
  await unlock()
  assert.equal((await post()).status, 201)
  await waitUntil(async () => (await ask('GET', '/users/1/stats')).json['activities'] === 1)
})

test('a database that goes silent does not hold up the end', async (t) => {
  let proxy: Awaited<ReturnType<typeof tcpProxy>> | undefined
  const { ask, close } = await startService(
    t,
    async (url) => {
      proxy = await tcpProxy(Number(new URL(url).port))
      return Object.assign(new URL(url), { port: String(proxy.port) }).href
    },
    {},
    undefined,
    { closeMs: 500 },
  )
  t.after(() => proxy?.close())
  assert.equal((await ask('POST', '/activities', { body: draft })).status, 201)
  proxy!.stall('both')
  let over = false
  void close().then(() => (over = true))
  await waitUntil(() => over, { what: 'the end' })
})
