import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { RouteDependencies } from './routes.ts'
import { createMetrics } from './metrics.ts'
import { HttpError } from './problem.ts'
import { routes, untilStarted } from './routes.ts'

test('a stream that is refused on purpose is no error in the log, nor is a probe that is told what is down; one that fails is', async () => {
  let fault: Error = new HttpError(503, 'The most')
  const told: unknown[] = []
  const note =
    (level: string) =>
    (fields: object): void =>
      void told.push([level, (fields as { status: number }).status, (fields as { err: Error }).err])
  const live = { open: () => Promise.reject(fault) }
  const app = routes({
    api: { live, tenants: ['acme'] } as unknown as RouteDependencies['api'],
    checks: { ready: { database: () => Promise.reject(new Error('away')) }, health: {} },
    metrics: createMetrics({}),
    newId: () => '019c0000-0000-7000-8000-000000000000',
    logger: { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') },
  })
  const ask = async (): Promise<number> => (await app.request('/events', { headers: { 'x-tenant-id': 'acme' } })).status
  assert.equal(await ask(), 503)
  assert.deepEqual(told.splice(0), [['debug', 503, fault]])
  assert.equal((await app.request('/readyz')).status, 503)
  assert.deepEqual(told.splice(0), [['debug', 503, undefined]])
  fault = new Error('broken')
  assert.equal(await ask(), 500)
  assert.deepEqual(told.splice(0), [['error', 500, fault]])
  fault = Object.assign(new Error('lock timeout'), { code: '55P03' })
  assert.deepEqual([await ask(), await ask()], [503, 503])
  assert.deepEqual(told, [
    ['warn', 503, fault],
    ['debug', 503, fault],
  ])
})

test('a process that starts is alive, and not ready', () => {
  const statuses = ['/healthz', '/readyz', '/activities'].map((path) => untilStarted(new Request(`http://localhost${path}`)).status)
  assert.deepEqual(statuses, [200, 503, 503])
})
