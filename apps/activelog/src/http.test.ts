import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { suite, test } from 'node:test'
import { createBroker } from '@core-backend/messaging'
import { postgresDriver } from '@core-backend/messaging/postgres'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { type Answer, contents, draft, type Service, startService } from './service.fixture.ts'

/** What a server says to these bytes, until it ends the connection or the answer is there. */
function raw(url: string, text: string, until = /(?!)/): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = ''
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    socket.on('data', (data) => {
      answer += data.toString()
      if (until.test(answer)) socket.destroy()
    })
    socket.once('close', () => resolve(answer)).once('error', reject)
    socket.write(text)
  })
}

const ids = ({ json }: Answer): unknown[] => (json['items'] as { id: string }[]).map(({ id }) => id)

/** Waits for the statistics that handlers keep beside the requests. */
const statistics = ({ ask }: Service, userId: number, expected: object, tenant = 'acme'): Promise<unknown> =>
  waitUntil(
    async () => {
      const { json } = await ask('GET', `/users/${userId}/stats`, { tenant })
      return Object.entries(expected).every(([field, value]) => json[field] === value) && json
    },
    { what: `statistics ${JSON.stringify(expected)}` },
  )

suite('the main job', async () => {
  await test('what is posted, changed and deleted shows in the statistics, the badges and the audit', async (t) => {
    const service = await startService(t)
    const { ask } = service
    const posted = await ask('POST', '/activities', { body: { ...draft, distanceKm: 42.195, notes: "Robert'); DROP TABLE activities; --" } })
    assert.equal(posted.status, 201)
    const { id } = posted.json as { id: string }
    assert.equal(posted.headers.get('location'), `/activities/${id}`)
    assert.deepEqual(posted.json, {
      ...draft,
      distanceKm: 42.195,
      notes: "Robert'); DROP TABLE activities; --",
      id,
      version: 1,
      createdAt: posted.json['createdAt'],
      updatedAt: posted.json['updatedAt'],
    })
    assert.deepEqual((await ask('GET', `/activities/${id}`)).json, posted.json)
    await statistics(service, 1, { activities: 1, totalMinutes: 32, totalDistanceKm: 42.195, lastActivityDate: '2026-01-15' })
    // Badges are another handler's: they may come a moment after the statistics.
    await waitUntil(async () => ((await ask('GET', '/users/1/badges')).json['items'] as unknown[]).length > 0)
    assert.deepEqual((await ask('GET', '/users/1/badges')).json, { items: [{ badge: 'marathon', times: 1, lastEarned: '2026-01-15' }] })

    const patched = await ask('PATCH', `/activities/${id}`, { body: { type: 'yoga', distanceKm: null, activityDate: '2026-01-16' } })
    assert.deepEqual([patched.status, patched.json['version'], 'distanceKm' in patched.json], [200, 2, false])
    await statistics(service, 1, { activities: 1, totalMinutes: 32, totalDistanceKm: 0, lastActivityDate: '2026-01-16' })
    assert.deepEqual((await ask('GET', '/users/1/badges')).json, { items: [] })

    assert.equal((await ask('DELETE', `/activities/${id}`)).status, 204)
    await statistics(service, 1, { activities: 0, totalMinutes: 0, lastActivityDate: null })
    assert.equal((await ask('DELETE', `/activities/${id}`)).status, 404)
    await waitUntil(async () => (await contents(service))['activelog.inbox'] === 9)
    const { rows } = await service.database.client.query('SELECT event FROM tenant_acme.audit ORDER BY recorded_at')
    assert.deepEqual(rows, [{ event: 'activity.created' }, { event: 'activity.updated' }, { event: 'activity.deleted' }])
    assert.deepEqual((await ask('GET', '/users/1/stats', { tenant: 'globex' })).json['updatedAt'], null)
  })

  await test('pages are cut by filter and go on where the last one ended, whatever is posted meanwhile', async (t) => {
    const { ask } = await startService(t)
    const made: unknown[] = []
    for (let n = 0; n < 7; n++)
      made.unshift(
        (await ask('POST', '/activities', { body: { ...draft, userId: 1 + (n % 2), type: n % 3 ? 'yoga' : 'running', activityDate: `2026-01-1${n}` } })).json[
          'id'
        ],
      )
    const first = await ask('GET', '/activities?limit=3')
    assert.deepEqual(ids(first), made.slice(0, 3))
    await ask('POST', '/activities', { body: draft })
    const second = await ask('GET', `/activities?limit=3&cursor=${String(first.json['nextCursor'])}`)
    const third = await ask('GET', `/activities?limit=3&cursor=${String(second.json['nextCursor'])}`)
    assert.deepEqual([...ids(second), ...ids(third)], made.slice(3))
    assert.equal(third.json['nextCursor'], null)
    assert.deepEqual(ids(await ask('GET', '/activities?userId=2&from=2026-01-12&to=2026-01-15')), [made[1], made[3]])
    assert.deepEqual(ids(await ask('GET', '/activities?type=running&to=2026-01-13')), [made[3], made[6]])
    assert.deepEqual(ids(await ask('GET', '/activities?userId=99')), [])
  })
})

suite('a request that is repeated under its key', async () => {
  const headers = { 'idempotency-key': 'key-1' }

  await test('is answered as the first time, with another body refused, and happens once for its tenant', async (t) => {
    const service = await startService(t)
    const { ask } = service
    const first = await ask('POST', '/activities', { body: draft, headers })
    await ask('PATCH', `/activities/${String(first.json['id'])}`, { body: { title: 'Changed since' } })
    const again = await ask('POST', '/activities', { body: draft, headers })
    assert.deepEqual([again.status, again.json], [201, first.json])
    assert.deepEqual([first.headers.get('idempotency-replayed'), again.headers.get('idempotency-replayed')], [null, 'true'])
    assert.equal((await ask('POST', '/activities', { body: { ...draft, durationMinutes: 33 }, headers })).status, 422)
    const other = await ask('POST', '/activities', { body: draft, headers, tenant: 'globex' })
    assert.equal(other.status, 201)
    assert.notEqual(other.json['id'], first.json['id'])
    await statistics(service, 1, { activities: 1 })
  })

  await test('happens once when it comes many times at the same moment', async (t) => {
    const { ask } = await startService(t)
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask('POST', '/activities', { body: draft, headers })))
    const statuses = new Set(answers.map(({ status }) => status))
    assert.ok(
      [...statuses].every((status) => status === 201 || status === 409),
      [...statuses].join(),
    )
    assert.equal(new Set(answers.filter(({ status }) => status === 201).map(({ json }) => json['id'])).size, 1)
    assert.equal(ids(await ask('GET', '/activities')).length, 1)
  })

  await test('is busy while the first one runs, and tells to come back', async (t) => {
    const { ask, database } = await startService(t)
    await database.transaction(async (tx) => {
      await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('activelog acme key-1', 0))")
      const { status, headers: answered, json } = await ask('POST', '/activities', { body: draft, headers })
      assert.deepEqual([status, answered.get('retry-after'), json['title']], [409, '1', 'Conflict'])
    })
    assert.equal((await ask('POST', '/activities', { body: draft, headers })).status, 201)
  })

  await test('is a new request after 24 hours', async (t) => {
    const { ask, database } = await startService(t)
    const first = await ask('POST', '/activities', { body: draft, headers })
    await database.client.query("UPDATE tenant_acme.idempotency_keys SET created_at = now() - interval '24 hours 1 second'")
    const second = await ask('POST', '/activities', { body: { ...draft, title: 'Another' }, headers })
    assert.equal(second.status, 201)
    assert.notEqual(second.json['id'], first.json['id'])
  })
})

suite('what is wrong', async () => {
  const long = 'x'.repeat(2_000_000)
  const sql = "'; DELETE FROM activities; --"
  /** Method, path, what else, expected status and the field that is named. */
  const table: [string, string, { tenant?: string; body?: unknown; headers?: Record<string, string> }, number, string?][] = [
    ['POST', '/activities', { body: '{"userId":1,' }, 400, ''],
    ['POST', '/activities', { body: '' }, 400, ''],
    ['POST', '/activities', { body: Buffer.from('{"title":"\xff"}', 'latin1') }, 400, ''],
    ['POST', '/activities', { body: '[]' }, 400, ''],
    ['POST', '/activities', { body: 'null' }, 400, ''],
    ['POST', '/activities', { body: { ...draft, title: long } }, 413],
    ['POST', '/activities', { body: long, headers: { 'content-type': 'text/plain' } }, 415],
    ['POST', '/activities', { body: draft, headers: { 'content-type': 'application/x-www-form-urlencoded' } }, 415, 'Content-Type'],
    ['POST', '/activities', { body: draft, headers: { 'content-type': 'application/json; charset=utf-16' } }, 415, 'Content-Type'],
    ['POST', '/activities', { body: draft, headers: { 'content-encoding': 'gzip' } }, 415, 'Content-Encoding'],
    ['POST', '/activities', { body: { ...draft, userId: '1' } }, 400, 'userId'],
    ['POST', '/activities', { body: { ...draft, userId: sql } }, 400, 'userId'],
    ['POST', '/activities', { body: { ...draft, type: sql } }, 400, 'type'],
    ['POST', '/activities', { body: { ...draft, title: ['x'] } }, 400, 'title'],
    ['POST', '/activities', { body: { ...draft, title: 'nul \0' } }, 400, 'title'],
    ['POST', '/activities', { body: { ...draft, notes: '\ud800' } }, 400, 'notes'],
    ['POST', '/activities', { body: { ...draft, durationMinutes: -1 } }, 400, 'durationMinutes'],
    ['POST', '/activities', { body: { ...draft, durationMinutes: sql } }, 400, 'durationMinutes'],
    ['POST', '/activities', { body: { ...draft, distanceKm: '1e9' } }, 400, 'distanceKm'],
    ['POST', '/activities', { body: { ...draft, activityDate: '2026-02-30' } }, 400, 'activityDate'],
    ['POST', '/activities', { body: { ...draft, activityDate: '9999-01-01' } }, 400, 'activityDate'],
    ['POST', '/activities', { body: { ...draft, activityDate: sql } }, 400, 'activityDate'],
    ['POST', '/activities', { body: { ...draft, [sql]: 1 } }, 400, sql],
    ['POST', '/activities', { body: `{"__proto__":{"userId":1},${JSON.stringify(draft).slice(1)}` }, 400],
    ['POST', '/activities', { body: draft, headers: { 'idempotency-key': 'two words' } }, 400, 'Idempotency-Key'],
    ['POST', '/activities', { body: draft, headers: { 'idempotency-key': 'x'.repeat(256) } }, 400, 'Idempotency-Key'],
    ['POST', '/activities', { body: draft, tenant: '' }, 400, 'X-Tenant-ID'],
    ['POST', '/activities', { body: draft, tenant: 'nobody' }, 404, 'X-Tenant-ID'],
    ['POST', '/activities', { body: draft, tenant: sql }, 404, 'X-Tenant-ID'],
    ['POST', '/activities', { body: draft, tenant: 'acme, acme' }, 400, 'X-Tenant-ID'],
    ['POST', '/activities', { body: draft, tenant: 'ACME' }, 404, 'X-Tenant-ID'],
    ['POST', '/activities', { body: draft, tenant: 'constructor' }, 404, 'X-Tenant-ID'],
    ['GET', '/activities?limit=0', {}, 400, 'limit'],
    ['GET', '/activities?limit=101', {}, 400, 'limit'],
    ['GET', '/activities?limit=1&limit=2', {}, 400, 'limit'],
    ['GET', `/activities?userId=${encodeURIComponent(sql)}`, {}, 400, 'userId'],
    ['GET', '/activities?userId=1e3', {}, 400, 'userId'],
    ['GET', `/activities?type=${encodeURIComponent(sql)}`, {}, 400, 'type'],
    ['GET', '/activities?from=2026-02-30', {}, 400, 'from'],
    ['GET', `/activities?to=${encodeURIComponent(sql)}`, {}, 400, 'to'],
    ['GET', '/activities?cursor=x', {}, 400, 'cursor'],
    ['GET', `/activities?cursor=${Buffer.from(`acme/${sql}`).toString('base64url')}`, {}, 400, 'cursor'],
    ['GET', '/activities?colour=red', {}, 400, 'colour'],
    ['GET', '/activities?from=2026-01-02&to=2026-01-01', {}, 400, 'from'],
    ['GET', '/activities?from=2026-01-02&to=2026-01-01', {}, 400, 'to'],
    ['GET', `/activities/${encodeURIComponent(sql)}`, {}, 404],
    ['GET', '/activities/00000000-0000-7000-8000-000000000000', {}, 404],
    ['PATCH', '/activities/00000000-0000-7000-8000-000000000000', { body: { title: 'x' } }, 404],
    ['DELETE', '/activities/1', {}, 404],
    ['GET', '/users/0/stats', {}, 400, 'userId'],
    ['GET', `/users/${encodeURIComponent(sql)}/stats`, {}, 400, 'userId'],
    ['GET', '/users/9007199254740993/stats', {}, 400, 'userId'],
    ['GET', '/users/1.5/badges', {}, 400, 'userId'],
    ['GET', '/events', { tenant: '' }, 400, 'X-Tenant-ID'],
    ['GET', '/events', { headers: { 'last-event-id': sql } }, 400, 'Last-Event-ID'],
    ['GET', '/events', { headers: { 'last-event-id': '815' } }, 400, 'Last-Event-ID'],
    ['GET', '/nothing', {}, 404],
    ['PUT', '/activities', { body: draft }, 405],
    ['DELETE', '/users/1/stats', {}, 405],
    ['POST', '/healthz', {}, 405],
    ['PROPFIND', '/metrics', {}, 405],
  ]

  await test('is answered with problem details that name the field; nothing is stored, nothing published', async (t) => {
    const service = await startService(t)
    for (const [method, path, options, status, field] of table) {
      const { json, headers, ...answer } = await service.ask(method, path, options)
      const what = `${method} ${path} ${JSON.stringify(options).slice(0, 100)}: ${JSON.stringify(json)}`
      assert.equal(answer.status, status, what)
      assert.equal(headers.get('content-type'), 'application/problem+json', what)
      assert.deepEqual([json['type'], json['status'], typeof json['title'], typeof json['detail']], ['about:blank', status, 'string', 'string'], what)
      assert.equal(json['requestId'], headers.get('x-request-id'), what)
      if (field !== undefined)
        assert.ok(
          (json['errors'] as { field?: string }[]).some((error) => (field === '' ? !('field' in error) : error.field === field)),
          what,
        )
    }
    assert.deepEqual(await contents(service), {})
    const allowed = async (method: string, path: string): Promise<string | null> => (await service.ask(method, path)).headers.get('allow')
    assert.equal(await allowed('PUT', '/activities'), 'GET, HEAD, POST')
    assert.equal(await allowed('POST', '/activities/1'), 'DELETE, GET, HEAD, PATCH')
    assert.equal(await allowed('POST', '/healthz'), 'GET, HEAD')
  })

  await test('what is no request to the server is answered with problem details too, and the connection ends', async (t) => {
    const { url } = await startService(t)
    const big = `X-Big: ${'x'.repeat(20_000)}`
    for (const [head, status, allow] of [
      ['BREW /activities HTTP/1.1\r\nHost: x', 405, 'GET, HEAD, POST'],
      ['BREW /nothing HTTP/1.1\r\nHost: x', 404],
      [`GET /healthz HTTP/1.1\r\nHost: x\r\n${big}`, 431],
      ['rubbish', 400],
      ['trace / HTTP/1.1\r\nHost: x', undefined],
      ['GET /healthz HTTP/1.1\r\nConnection: close', 400],
      ['GET /healthz HTTP/1.1\r\nHost: a b\r\nConnection: close', 400],
      ['OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close', 400],
    ] as const) {
      const answer = await raw(url, `${head}\r\n\r\n`)
      if (status === undefined) {
        assert.equal(answer, '', head)
        continue
      }
      const [headers = '', body = ''] = answer.split('\r\n\r\n')
      assert.match(headers, new RegExp(`^HTTP/1.1 ${status} [^]*content-type: application/problem\\+json`, 'i'), head)
      assert.equal(/^allow: (.*)\r$/im.exec(headers)?.[1], allow, head)
      assert.equal((JSON.parse(body.slice(body.indexOf('{'), body.lastIndexOf('}') + 1)) as { status: number }).status, status, head)
    }
  })

  await test('a request that breaks off in its body is no fault of the server', async (t) => {
    const logged: string[] = []
    const { url } = await startService(t, undefined, {}, (_, text) => void logged.push(text))
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    const closed = new Promise((resolve) => socket.once('close', resolve))
    socket.on('data', () => socket.destroy()) // the server says 100, waits for the body, and gets none
    socket.write(
      'POST /activities HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n',
    )
    await closed
    await waitUntil(async () => /route="\/activities",status="400"/.test(await (await fetch(`${url}/metrics`)).text()))
    assert.deepEqual(logged, [])
  })

  await test('a HEAD is answered as a GET is, and opens no stream', async (t) => {
    const { ask, url } = await startService(t)
    const answer = await ask('HEAD', '/events')
    assert.deepEqual([answer.status, answer.headers.get('content-type')], [200, 'text/event-stream; charset=utf-8'])
    assert.match(await (await fetch(`${url}/metrics`)).text(), /^activelog_event_streams 0$/m)
  })

  await test('connections are kept for longer than a load balancer keeps them', async (t) => {
    const { url } = await startService(t)
    assert.match(await raw(url, 'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n', /\}$/), /^Keep-Alive: timeout=65\r$/m)
  })

  await test('a body without a length is cut off at the limit', async (t) => {
    const { url } = await startService(t)
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    t.after(() => socket.destroy())
    let answer = ''
    socket.on('data', (data) => (answer += data.toString())).on('error', () => {})
    socket.write('POST /activities HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n')
    for (let n = 0; n < 8; n++) socket.write(`4000\r\n${'x'.repeat(0x4000)}\r\n`)
    await waitUntil(() => answer.startsWith('HTTP/1.1 413 '))
  })

  await test('a change is refused as a post is, and changes nothing', async (t) => {
    const service = await startService(t)
    const { json } = await service.ask('POST', '/activities', { body: draft })
    const path = `/activities/${String(json['id'])}`
    for (const [body, field] of [
      [{}, undefined],
      [{ userId: 2 }, 'userId'],
      [{ version: 9 }, 'version'],
      [{ durationMinutes: 0 }, 'durationMinutes'],
      [{ title: null }, 'title'],
    ] as const) {
      const answer = await service.ask('PATCH', path, { body })
      assert.deepEqual([answer.status, (answer.json['errors'] as { field: string }[])[0]?.field], [400, field])
    }
    assert.deepEqual((await service.ask('GET', path)).json, json)
  })
})

suite('tenants', async () => {
  await test('no endpoint gives, changes or reveals anything of another tenant', async (t) => {
    const service = await startService(t)
    const { ask } = service
    const mine = await ask('POST', '/activities', { body: draft })
    for (let n = 0; n < 3; n++) await ask('POST', '/activities', { body: { ...draft, distanceKm: 42.195 } })
    await statistics(service, 1, { activities: 4 })
    const page = await ask('GET', '/activities?limit=2')
    const other = { tenant: 'globex' }
    const path = `/activities/${String(mine.json['id'])}`
    assert.equal((await ask('GET', path, other)).status, 404)
    assert.equal((await ask('PATCH', path, { ...other, body: { title: 'Taken' } })).status, 404)
    assert.equal((await ask('DELETE', path, other)).status, 404)
    assert.deepEqual(ids(await ask('GET', '/activities', other)), [])
    assert.deepEqual(ids(await ask('GET', '/activities?userId=1', other)), [])
    assert.equal((await ask('GET', `/activities?cursor=${String(page.json['nextCursor'])}`, other)).status, 400)
    assert.equal((await ask('GET', '/users/1/stats', other)).json['activities'], 0)
    assert.deepEqual((await ask('GET', '/users/1/badges', other)).json, { items: [] })
    assert.deepEqual((await ask('GET', path)).json, mine.json)
    assert.deepEqual(
      Object.keys(await contents(service)).filter((table) => table.startsWith('tenant_globex')),
      [],
    )
  })
})

suite('a request in its trace', async () => {
  await test('has an id, its own or one of ours, and takes the trace context to the audit line', async (t) => {
    const service = await startService(t)
    const headers = { 'x-request-id': 'mine-1', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' }
    const answer = await service.ask('POST', '/activities', { body: draft, headers })
    assert.equal(answer.headers.get('x-request-id'), 'mine-1')
    const odd = await service.ask('POST', '/activities', { body: draft, headers: { 'x-request-id': 'a b\tc', traceparent: 'rubbish' } })
    assert.match(odd.headers.get('x-request-id')!, /^[\da-f-]{36}$/)
    const lines = await waitUntil(async () => {
      const { rows } = await service.database.client.query('SELECT request_id, trace_id FROM tenant_acme.audit ORDER BY occurred_at')
      return rows.length === 2 && (rows as { request_id: string; trace_id: string }[])
    })
    assert.deepEqual(lines[0], { request_id: 'mine-1', trace_id: '0af7651916cd43dd8448eb211c80319c' })
    assert.equal(lines[1]!.request_id, odd.headers.get('x-request-id'))
    assert.equal(lines[1]!.trace_id, lines[1]!.request_id.replaceAll('-', ''))
  })
})

suite('operations', async () => {
  await test('health, readiness and metrics are there without a tenant', async (t) => {
    const { ask, url } = await startService(t)
    await ask('POST', '/activities', { body: draft })
    const anybody = { tenant: '' }
    assert.deepEqual((await ask('GET', '/healthz', anybody)).json, { status: 'ok' })
    assert.deepEqual((await ask('GET', '/readyz', anybody)).json, { status: 'ok', checks: { database: { status: 'ok' } } })
    const { checks } = (await ask('GET', '/health', anybody)).json as { checks: Record<string, { status: string }> }
    assert.deepEqual(Object.keys(checks), ['database', 'broker', 'outbox', 'workers', 'relay'])
    const metrics = await (await fetch(`${url}/metrics`)).text()
    assert.match(metrics, /^# HELP activelog_/)
    assert.match(metrics, /^process_cpu_seconds_total /m)
    assert.match(metrics, /^activelog_http_request_duration_seconds_count\{method="POST",route="\/activities",status="201"\} 1$/m)
    for (const name of ['outbox_pending', 'broker_lag', 'dead_letters', 'relay_published', 'event_streams', 'handler_events'])
      assert.match(metrics, new RegExp(`^activelog_${name}`, 'm'))
  })
})

suite('an event that nobody takes from the outbox', async () => {
  await test('shows in health, with its age', async (t) => {
    const { ask, database } = await startService(t, undefined, { ROLE: 'api' })
    await ask('POST', '/activities', { body: draft })
    await database.client.query("UPDATE activelog.outbox SET created_at = now() - interval '1 hour'")
    const { status, json } = await ask('GET', '/health')
    const { outbox } = json['checks'] as { outbox: { status: string; pending: number; oldestAgeMs: number } }
    assert.deepEqual([status, json['status'], outbox.status, outbox.pending], [200, 'degraded', 'degraded', 1])
    assert.ok(outbox.oldestAgeMs >= 3_600_000, `${outbox.oldestAgeMs} ms`)
  })
})

suite('an event that nobody handles', async () => {
  await test('shows in health while there is no worker', async (t) => {
    const { ask, database } = await startService(t, undefined, { ROLE: 'api' })
    const workers = async (): Promise<unknown> => ((await ask('GET', '/health')).json['checks'] as { workers: object }).workers
    assert.deepEqual(await workers(), { status: 'ok', messages: 0, members: 0, oldestAgeMs: 0 })
    const relayed = createBroker(postgresDriver({ client: database.client, schema: 'activelog' }))
    await relayed.publish({ topic: 'activities', value: new Uint8Array() })
    await relayed.close()
    const { oldestAgeMs, ...counts } = (await workers()) as { oldestAgeMs: number }
    assert.deepEqual(counts, { status: 'degraded', messages: 1, members: 0 })
    assert.ok(oldestAgeMs >= 0)
  })

  await test('shows in health by its age, while workers live', async (t) => {
    const { ask, database } = await startService(t)
    const workers = async (): Promise<{ status: string; messages: number; members: number; oldestAgeMs: number }> =>
      ((await ask('GET', '/health')).json['checks'] as { workers: Awaited<ReturnType<typeof workers>> }).workers
    await database.transaction(async (tx) => {
      await tx.query('LOCK TABLE tenant_acme.day_sums IN SHARE MODE')
      await ask('POST', '/activities', { body: draft })
      // Before the first look, which has nothing to go by but the timestamp.
      const age = 'WITH aged AS (UPDATE activelog.messages SET ts = ts - 3600000 RETURNING 1) SELECT count(*)::integer AS n FROM aged'
      await waitUntil(async () => ((await database.client.query(age)).rows as { n: number }[])[0]!.n === 1)
      const { status, members, oldestAgeMs } = await workers()
      assert.deepEqual([status, members], ['degraded', 1])
      assert.ok(oldestAgeMs >= 3_600_000, `${oldestAgeMs} ms`)
    })
    await waitUntil(async () => (await workers()).status === 'ok')
  })

  await test('and a database that takes no writes makes nobody ready', async (t) => {
    const { ask, database } = await startService(t)
    const name = new URL(database.url!).pathname.slice(1)
    await database.client.query(`ALTER DATABASE ${name} SET default_transaction_read_only = on`)
    await database.client.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()`, [name])
    await waitUntil(async () => (await ask('GET', '/readyz')).status === 503)
    const { status, json, headers } = await ask('POST', '/activities', { body: draft })
    assert.deepEqual([status, json['title'], headers.get('retry-after')], [503, 'Service Unavailable', '1'])
  })
})

suite('a relay whose statement waits', async () => {
  await test('shows in health, before its deadline makes it an error', async (t) => {
    const { ask, database } = await startService(t)
    const relay = async (): Promise<unknown> => ((await ask('GET', '/health')).json['checks'] as { relay: object }).relay
    await database.transaction(async (tx) => {
      await tx.query('LOCK TABLE activelog.outbox')
      const late = await waitUntil(
        async () => {
          const check = (await relay()) as { status: string; state: string; waitingMs: number }
          return check.status === 'degraded' && check
        },
        { everyMs: 100 },
      )
      assert.equal(late.state, 'running')
      assert.ok(late.waitingMs >= 2_000, `${late.waitingMs} ms`)
    })
    await waitUntil(async () => ((await relay()) as { status: string }).status === 'ok')
  })
})
