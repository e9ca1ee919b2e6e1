import { type EventPublisher, eventPublisher } from '@core-backend/events'
import type { Transaction } from '@core-backend/internal/sql'
import type { Outbox } from '@core-backend/outbox'
import type { ActivityFilter, ActivityStore, RepeatableRequest, Unit } from '../application/ports.ts'
import type { Activity, ActivityType } from '../domain/activity.ts'
import type { Database } from './database.ts'
import { forget } from './forget.ts'
import { schemaOf, statementsOn } from './schema.ts'

/** How long a repeated request gets its first answer. */
const keptFor = "interval '24 hours'"

interface ActivityRow {
  id: string
  user_id: string
  type: ActivityType
  title: string
  description: string | null
  duration_minutes: number
  distance_km: string | null
  calories_burned: number | null
  notes: string | null
  activity_date: string
  created_at: Date
  updated_at: Date
  version: number
}

const columns = `id, user_id::text, type, title, description, duration_minutes, distance_km::text, calories_burned, notes, activity_date::text, created_at, updated_at, version`
const inserted = 'id, user_id, type, title, description, duration_minutes, distance_km, calories_burned, notes, activity_date, created_at, updated_at, version'
const given =
  '$1::uuid, $2::bigint, $3::text, $4::text, $5::text, $6::integer, $7::numeric, $8::integer, $9::text, $10::date, $11::timestamptz, $12::timestamptz, $13::integer'

/** The store on PostgreSQL: a schema a tenant, events through the outbox. */
export function activityStore(db: Database, outbox: Outbox): ActivityStore {
  return {
    transaction: (tenant, fn) => db.transaction((tx) => fn(unit(tx, tenant, eventPublisher(outbox.publisher(tx))))),

    async find(tenant, id) {
      const { rows } = await db.query(`SELECT ${columns} FROM ${schemaOf(tenant)}.activities WHERE id = $1 AND NOT deleted`, [id])
      return rows.length === 0 ? undefined : toActivity(rows[0] as ActivityRow)
    },

    async list(tenant, filter) {
      const { text, values } = listing(schemaOf(tenant), filter)
      const { rows } = await db.query(text, values)
      return (rows as ActivityRow[]).map(toActivity)
    },

    async answered(tenant, key) {
      const { rows } = await db.query(
        `SELECT fingerprint, response AS activity FROM ${schemaOf(tenant)}.idempotency_keys WHERE key = $1 AND created_at >= now() - ${keptFor}`,
        [key],
      )
      return rows[0] as { fingerprint: string; activity: Activity } | undefined
    },
  }
}

/** Forgets the keys that no longer answer anything. */
export async function forgetOldKeys(db: Database, tenants: readonly string[], signal?: AbortSignal): Promise<void> {
  for (const tenant of tenants) await forget(db, `${schemaOf(tenant)}.idempotency_keys`, `created_at < now() - ${keptFor}`, signal)
}

function unit(tx: Transaction, tenant: string, events: EventPublisher): Unit {
  const statements = statementsOf(tenant)
  return {
    events: {
      async publish(event) {
        // With the broker for the handlers, and in the log for those who watch.
        await Promise.all([events.publish(event), tx.query(statements.log, [event.id, event.name, JSON.stringify(event.data)])])
      },
    },

    async add(activity, request) {
      const values = valuesOf(activity)
      if (!request) {
        await tx.query(statements.insert, values)
        return true
      }
      const { rows } = await tx.query(statements.claim, [...values, ...claimOf(tenant, request, activity)])
      return rows.length === 1
    },

    async lock(id) {
      const { rows } = await tx.query(statements.lock, [id])
      return rows.length === 0 ? undefined : toActivity(rows[0] as ActivityRow)
    },

    async replace(activity) {
      await tx.query(statements.replace, valuesOf(activity))
    },

    async remove({ id, updatedAt, version }) {
      await tx.query(statements.remove, [id, updatedAt, version])
    },
  }
}

const statementsOf = statementsOn((schema) => ({
  log: `INSERT INTO ${schema}.events (id, name, activity) VALUES ($1, $2, $3)`,
  insert: `INSERT INTO ${schema}.activities (${inserted}) VALUES (${given})`,
  /**
   * Inserts the activity if its request's key is free, or was used more than 24 hours ago. The advisory lock makes a repetition that comes while the first
   * request runs say so at once, instead of waiting for it on the key's index entry.
   */
  claim: `
  WITH claimed AS (
    INSERT INTO ${schema}.idempotency_keys AS earlier (key, fingerprint, response)
    SELECT $14::text, $15::text, $16::json WHERE pg_try_advisory_xact_lock(hashtextextended($17::text, 0))
    ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint, response = excluded.response, created_at = excluded.created_at
      WHERE earlier.created_at < now() - ${keptFor}
    RETURNING key
  )
  INSERT INTO ${schema}.activities (${inserted}) SELECT ${given} FROM claimed RETURNING version`,
  lock: `SELECT ${columns} FROM ${schema}.activities WHERE id = $1 AND NOT deleted FOR UPDATE`,
  replace: `UPDATE ${schema}.activities SET (${inserted}) = ROW(${given}) WHERE id = $1`,
  remove: `UPDATE ${schema}.activities SET deleted = true, updated_at = $2, version = $3 WHERE id = $1`,
}))

const claimOf = (tenant: string, { key, fingerprint }: RepeatableRequest, activity: Activity): unknown[] => [
  key,
  fingerprint,
  JSON.stringify(activity),
  `activelog ${tenant} ${key}`,
]

/** Only the conditions that are asked for, so that each shape of query has its own plan. */
function listing(schema: string, { userId, type, from, to, before, limit }: ActivityFilter): { text: string; values: unknown[] } {
  const values: unknown[] = []
  const where = ['NOT deleted']
  const add = (condition: string, value: unknown): void => {
    if (value !== undefined) where.push(`${condition} $${values.push(value)}`)
  }
  add('user_id =', userId)
  add('type =', type)
  add('activity_date >=', from)
  add('activity_date <=', to)
  add('id <', before)
  return { text: `SELECT ${columns} FROM ${schema}.activities WHERE ${where.join(' AND ')} ORDER BY id DESC LIMIT $${values.push(limit)}`, values }
}

function valuesOf(a: Activity): unknown[] {
  return [
    a.id,
    a.userId,
    a.type,
    a.title,
    a.description ?? null,
    a.durationMinutes,
    a.distanceKm ?? null,
    a.caloriesBurned ?? null,
    a.notes ?? null,
    a.activityDate,
    a.createdAt,
    a.updatedAt,
    a.version,
  ]
}

function toActivity(row: ActivityRow): Activity {
  return {
    id: row.id,
    userId: Number(row.user_id),
    type: row.type,
    title: row.title,
    ...(row.description !== null && { description: row.description }),
    durationMinutes: row.duration_minutes,
    ...(row.distance_km !== null && { distanceKm: Number(row.distance_km) }),
    ...(row.calories_burned !== null && { caloriesBurned: row.calories_burned }),
    ...(row.notes !== null && { notes: row.notes }),
    activityDate: row.activity_date,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    version: row.version,
  }
}
