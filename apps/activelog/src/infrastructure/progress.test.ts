import assert from 'node:assert/strict'
import { test } from 'node:test'
import { uuidv7 } from '@core-backend/internal/uuid'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { draft, startService } from '../service.fixture.ts'

test('counts events from one on, whatever the age of their activities', async (t) => {
  const service = await startService(t)
  const { json } = await service.ask('POST', '/activities', { body: draft })
  // What is handled is settled a moment later.
  const settled = (sinceId: string, handled: number): Promise<unknown> =>
    waitUntil(async () => {
      const progress = await service.progress(sinceId)
      return progress.handled === handled && progress.pending === 0
    })
  await settled(uuidv7(0), 1)
  const sinceId = uuidv7()
  const none = { posted: 0, handled: 0, deadLettered: 0, unpublished: 0, pending: 0 }
  assert.deepEqual(await service.progress(sinceId), none)
  for (let n = 0; n < 3; n++) await service.ask('PATCH', `/activities/${String(json['id'])}`, { body: { title: `Run ${n}` } })
  await service.ask('DELETE', `/activities/${String(json['id'])}`)
  await service.ask('POST', '/activities', { tenant: 'globex', body: draft })
  await settled(sinceId, 5)
  assert.deepEqual(await service.progress(sinceId), { ...none, posted: 5, handled: 5 })
  assert.equal((await service.progress(uuidv7(0))).posted, 6)
})
