// What the groups share: the event, and the tables it goes into.
import { join } from 'node:path'
import type { Pool } from 'pg'
import { createOutbox, type OutboxMessage } from '../src/index.ts'

/** A private project with pinned versions. */
export const peers: string = join(import.meta.dirname, 'peers')
export const body: Buffer = Buffer.from(
  JSON.stringify({ id: 'x'.repeat(36), userId: 4711, type: 'running', title: 'Morning run', durationMinutes: 45, notes: 'x'.repeat(120) }),
)
export const headers = {
  ce_specversion: '1.0',
  ce_type: 'activity.created',
  ce_source: '/activities',
  ce_time: '2026-11-21T10:00:00.000Z',
  tenant: 'acme',
  'content-type': 'application/json',
}
export const event = (i: number): OutboxMessage => ({ topic: 'activities', key: `activity-${i % 1_000}`, value: body, headers })
export const text: string = body.toString()

export const ours = async (pool: Pool, options: Parameters<typeof createOutbox>[0] = {}): Promise<ReturnType<typeof createOutbox>> => {
  const outbox = createOutbox(options)
  await pool.query(outbox.schema())
  return outbox
}

export const createHandTable = (pool: Pool): Promise<unknown> =>
  pool.query(
    'CREATE TABLE hand (id bigserial PRIMARY KEY, topic text NOT NULL, key text, value bytea NOT NULL, headers json, created_at timestamptz NOT NULL DEFAULT clock_timestamp())',
  )
