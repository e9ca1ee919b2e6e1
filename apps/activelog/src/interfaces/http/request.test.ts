import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { HttpError } from './problem.ts'
import { cursorOf, readIdempotencyKey, readListQuery, readTenant } from './request.ts'

/** What it is refused for, by field. */
function faultsOf(fn: () => unknown): Record<string, string> {
  try {
    fn()
  } catch (error) {
    return Object.fromEntries((error as HttpError).faults.map(({ field, detail }) => [field, detail]))
  }
  return {}
}
const listed = (query: string): Record<string, string> => faultsOf(() => readListQuery(new URLSearchParams(query), 'acme'))

test('everything that is wrong with a query is told at once, each parameter once', () => {
  assert.deepEqual(Object.keys(listed('limit=abc&type=zz&from=x&to=y&userId=-1&cursor=!!&colour=red&colour=blue&colour=green')), [
    'limit',
    'type',
    'from',
    'to',
    'userId',
    'cursor',
    'colour',
  ])
  assert.deepEqual(listed('from=2026-01-02&to=2026-01-01&limit=0'), {
    limit: 'must be an integer from 1 to 100',
    from: 'must not be later than to, which is 2026-01-01',
    to: 'must not be earlier than from, which is 2026-01-02',
  })
  assert.deepEqual(listed('limit=1&limit=2&__proto__=3&from=0000-01-01&to=2026-01-01'), {
    limit: 'is given twice',
    ['__proto__']: 'is not a parameter',
    from: 'must be a date that exists, as YYYY-MM-DD',
  })
})

test('a query without faults is a filter', () => {
  const id = '00000000-0000-7000-8000-000000000000'
  const query = new URLSearchParams({ userId: '7', type: 'yoga', from: '2026-01-01', to: '2026-01-01', limit: '100', cursor: cursorOf('acme', id) })
  assert.deepEqual(readListQuery(query, 'acme'), { userId: 7, type: 'yoga', from: '2026-01-01', to: '2026-01-01', limit: 100, before: id })
  assert.deepEqual(readListQuery(new URLSearchParams(), 'acme'), { limit: 20 })
  assert.deepEqual(
    faultsOf(() => readListQuery(query, 'globex')),
    { cursor: 'must be the nextCursor of a page of this tenant' },
  )
})

test('a header that is given twice, or holds a space, is told so', () => {
  const request = new Request('http://x', {
    headers: [...['acme', 'acme'].map((name): [string, string] => ['x-tenant-id', name]), ['idempotency-key', 'two words']],
  })
  assert.deepEqual(
    faultsOf(() => readTenant(request, new Set(['acme']))),
    { 'X-Tenant-ID': 'is given twice' },
  )
  assert.deepEqual(
    faultsOf(() => readIdempotencyKey(request)),
    { 'Idempotency-Key': 'must be 1 to 255 visible ASCII characters without spaces' },
  )
})
