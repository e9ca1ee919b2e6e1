import { hash } from 'node:crypto'
import { type Activity, newId } from './activity.ts'
import type { Database } from './database.ts'

export interface Asked {
  tenant: string
  requestId: string
  traceparent: string
  key: string | undefined
}

export type Outcome = { activity: Activity; repeated: boolean } | 'reused'

/** The request's key, the activity and its event in one transaction. */
export async function post(db: Database, pipeline: boolean, { tenant, requestId, traceparent, key }: Asked, draft: Omit<Activity, 'id'>): Promise<Outcome> {
  const schema = `"tenant_${tenant}"`
  const now = new Date()
  const at = now.toISOString()
  const activity: Activity = { id: newId(), ...draft, createdAt: at, updatedAt: at, version: 1 }
  const fingerprint = hash('sha256', JSON.stringify(draft), 'base64')
  const json = JSON.stringify(activity)
  const eventId = newId()
  const headers = JSON.stringify({
    ce_specversion: '1.0',
    ce_id: eventId,
    ce_source: '/activities',
    ce_type: 'activity.created',
    ce_time: at,
    ce_subject: activity.id,
    ce_dataversion: '1',
    'content-type': 'application/json',
    ce_tenantid: tenant,
    ce_correlationid: requestId,
    traceparent,
  })
  const taken = new Error('The key is taken')
  try {
    await db.transaction(async (query) => {
      const statements = [
        () =>
          key === undefined
            ? Promise.resolve({ rows: [key] })
            : query(
                `INSERT INTO ${schema}.idempotency_keys AS earlier (key, fingerprint, response) VALUES ($1, $2, $3) ON CONFLICT (key) DO UPDATE
                 SET fingerprint = excluded.fingerprint, response = excluded.response, created_at = excluded.created_at
                 WHERE earlier.created_at < now() - interval '24 hours' RETURNING key`,
                [key, fingerprint, json],
              ),
        () =>
          query(
            `INSERT INTO ${schema}.activities (id, user_id, type, title, description, duration_minutes, distance_km, calories_burned, notes, activity_date, created_at, updated_at, version)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
            [
              activity.id,
              activity.userId,
              activity.type,
              activity.title,
              activity.description ?? null,
              activity.durationMinutes,
              activity.distanceKm ?? null,
              activity.caloriesBurned ?? null,
              activity.notes ?? null,
              activity.activityDate,
              at,
              at,
              1,
            ],
          ),
        () =>
          query('INSERT INTO activelog.outbox (message_id, topic, key, value, headers, timestamp) VALUES ($1, $2, $3, $4, $5, $6)', [
            eventId,
            'activities',
            activity.id,
            Buffer.from(json),
            headers,
            at,
          ]),
        () => query(`INSERT INTO ${schema}.events (id, name, activity) VALUES ($1, $2, $3)`, [eventId, 'activity.created', json]),
      ]
      const results: { rows: unknown[] }[] = []
      if (pipeline) results.push(...(await Promise.all(statements.map((send) => send()))))
      else for (const send of statements) results.push(await send())
      if (results[0]!.rows.length === 0) throw taken
    })
  } catch (error) {
    if (error !== taken) throw error
    const { rows } = await db.query(`SELECT fingerprint, response AS activity FROM ${schema}.idempotency_keys WHERE key = $1`, [key])
    const earlier = rows[0] as { fingerprint: string; activity: Activity }
    return earlier.fingerprint === fingerprint ? { activity: earlier.activity, repeated: true } : 'reused'
  }
  return { activity, repeated: false }
}
