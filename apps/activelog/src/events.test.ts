import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { fromEnv } from './infrastructure/settings.ts'
import { startActivelog } from './main.ts'
import { draft, type Service, startService } from './service.fixture.ts'

suite('events', async () => {
  /** The lines of a stream as they come, until the test ends it. */
  const follow = async (
    { url }: Pick<Service, 'url'>,
    tenant: string,
    lastEventId?: string,
  ): Promise<{ ids: () => string[]; place: () => string | undefined; ended: () => boolean; end: () => void; type: string | null }> => {
    const stop = new AbortController()
    const headers = { 'x-tenant-id': tenant, ...(lastEventId !== undefined && { 'last-event-id': lastEventId }) }
    const response = await fetch(`${url}/events`, { headers, signal: stop.signal })
    let text = ''
    let over = false
    void (async () => {
      for await (const chunk of response.body!) text += Buffer.from(chunk).toString()
    })()
      .catch(() => {})
      .finally(() => (over = true))
    return {
      ids: () => Array.from(text.matchAll(/^id: (.*)\nevent: /gm), ([, id]) => id!),
      place: () => /^retry: 1000\nid: (.*)\n\n/.exec(text)?.[1],
      ended: () => over,
      end: () => stop.abort(),
      type: response.headers.get('content-type'),
    }
  }

  await test('are told in full by another process after a restart, while neither relay nor workers run', async (t) => {
    const service = await startService(t, undefined, { ROLE: 'api' })
    const reader = await follow(service, 'acme')
    await service.ask('POST', '/activities', { body: draft })
    await waitUntil(() => reader.ids().length === 1)
    reader.end()
    for (let n = 0; n < 3; n++) await service.ask('POST', '/activities', { body: draft })
    const env = { ROLE: 'api', PORT: '0', TENANTS: 'acme,globex', DATABASE_URL: service.database.url! }
    const other = await startActivelog(fromEnv(env), { logger: { debug() {}, info() {}, warn() {}, error() {} } })
    try {
      const back = await follow({ url: other.url! }, 'acme', reader.ids()[0])
      await waitUntil(() => back.ids().length === 3)
      await service.ask('POST', '/activities', { body: draft })
      await waitUntil(() => back.ids().length === 4)
      const { rows } = await service.database.client.query('SELECT id FROM tenant_acme.events ORDER BY events.txid')
      assert.deepEqual(
        [...reader.ids(), ...back.ids()],
        (rows as { id: string }[]).map(({ id }) => id),
      )
    } finally {
      await other.close()
    }
  })

  await test('of a restored dump are told, although they are of transactions that are still to come here', async (t) => {
    const service = await startService(t, undefined, { ROLE: 'api' })
    for (let n = 0; n < 3; n++) await service.ask('POST', '/activities', { body: draft })
    await service.database.client.query("UPDATE tenant_acme.events SET txid = '4000000000'")
    const told: unknown[] = []
    const env = { ROLE: 'api', PORT: '0', TENANTS: 'acme,globex', DATABASE_URL: service.database.url! }
    const logger = { debug() {}, info() {}, error() {}, warn: (fields: object) => void told.push(fields) }
    const other = await startActivelog(fromEnv(env), { logger })
    try {
      const { rows } = await service.database.client.query('SELECT id FROM tenant_acme.events ORDER BY id')
      const [first, ...rest] = (rows as { id: string }[]).map(({ id }) => id)
      const back = await follow({ url: other.url! }, 'acme', first)
      await waitUntil(() => back.ids().length === 2)
      assert.deepEqual(back.ids(), rest)
      assert.deepEqual(told, [{ table: 'tenant_acme.events', events: 3 }])
    } finally {
      await other.close()
    }
  })

  await test('that come while one is away are told also to who has seen none yet', async (t) => {
    const service = await startService(t, undefined, { ROLE: 'api' })
    await service.ask('POST', '/activities', { body: draft })
    const reader = await follow(service, 'acme')
    const place = await waitUntil(reader.place)
    reader.end()
    await service.ask('POST', '/activities', { body: draft })
    const { rows } = await service.database.client.query('SELECT id FROM tenant_acme.events ORDER BY events.txid')
    const back = await follow(service, 'acme', place)
    await waitUntil(() => back.ids().length > 0)
    assert.deepEqual(back.ids(), [(rows as { id: string }[])[1]!.id])
  })

  await test('come live to their tenant alone; who comes back misses none; close ends the streams', async (t) => {
    const service = await startService(t)
    const acme = await follow(service, 'acme')
    const globex = await follow(service, 'globex')
    assert.equal(acme.type, 'text/event-stream; charset=utf-8')
    await waitUntil(
      async () => {
        await service.ask('POST', '/activities', { body: draft })
        return acme.ids().length > 0
      },
      { everyMs: 200 },
    )
    const seen = acme.ids()[0]!
    acme.end()
    const { json } = await service.ask('POST', '/activities', { body: { ...draft, title: 'While away' } })
    await service.ask('DELETE', `/activities/${String(json['id'])}`)
    const back = await follow(service, 'acme', seen)
    await waitUntil(async () => {
      const { rows } = await service.database.client.query('SELECT event_id FROM tenant_acme.audit WHERE event_id > $1', [seen])
      return rows.length >= 2 && (rows as { event_id: string }[]).every(({ event_id: id }) => back.ids().includes(id))
    })
    assert.equal(new Set(back.ids()).size, back.ids().length)
    const none = await follow(service, 'globex', seen)
    assert.deepEqual([globex.ids(), none.ids()], [[], []])
    await service.close()
    await waitUntil(() => [globex, back, none].every(({ ended }) => ended()))
  })
})
