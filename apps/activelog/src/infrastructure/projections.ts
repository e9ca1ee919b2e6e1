import type { Transaction } from '@core-backend/internal/sql'
import type { ProjectionReader, ProjectionWriter } from '../application/ports.ts'
import type { Activity, ActivityType } from '../domain/activity.ts'
import type { Badge } from '../domain/badges.ts'
import type { Database } from './database.ts'
import { schemaOf, statementsOn } from './schema.ts'

export interface Projections extends ProjectionReader, ProjectionWriter<Transaction> {}

/** What the handlers keep, on PostgreSQL. An event that comes late, after a newer one of its activity, changes nothing. */
export function projections(db: Database): Projections {
  return {
    async count(tx, tenant, activity, deleted) {
      const { countFirst, counted, countAgain } = statementsOf(tenant)
      if (activity.version === 1) {
        await tx.query(countFirst, countedOf(activity))
        return
      }
      // The first makes sure that there is a row to lock, so that the second sees what it replaces. They travel together.
      await Promise.all([tx.query(counted, [activity.id]), tx.query(countAgain, [...countedOf(activity), deleted])])
    },

    async award(tx, tenant, { id, version, userId, activityDate }, badges) {
      // Whoever comes later finds no row: nothing was earned.
      if (version === 1 && badges.length === 0) return
      await tx.query(statementsOf(tenant).award, [id, version, userId, badges, activityDate])
    },

    async record(tx, tenant, { eventId, event, activity, occurredAt, requestId, traceId }) {
      await tx.query(statementsOf(tenant).record, [eventId, event, JSON.stringify(activity), occurredAt, requestId ?? null, traceId ?? null])
    },

    async daySums(tenant, userId) {
      const { rows } = await db.query(
        `SELECT day::text, type, activities, minutes::text, km::text, updated_at FROM ${schemaOf(tenant)}.day_sums WHERE user_id = $1`,
        [userId],
      )
      return (rows as { day: string; type: ActivityType; activities: number; minutes: string; km: string; updated_at: Date }[]).map((row) => ({
        day: row.day,
        type: row.type,
        activities: row.activities,
        minutes: Number(row.minutes),
        km: Number(row.km),
        updatedAt: row.updated_at.toISOString(),
      }))
    },

    async badges(tenant, userId) {
      const { rows } = await db.query(
        `SELECT badge, count(*)::integer AS times, max(earned_on)::text AS "lastEarned"
         FROM ${schemaOf(tenant)}.badges, unnest(names) AS badge WHERE user_id = $1 GROUP BY badge ORDER BY badge`,
        [userId],
      )
      return rows as { badge: Badge; times: number; lastEarned: string }[]
    },
  }
}

const adding = (schema: string, from: string): string => `
  INSERT INTO ${schema}.day_sums AS s (user_id, day, type, activities, minutes, km) ${from}
  ON CONFLICT (user_id, day, type) DO UPDATE
  SET activities = s.activities + excluded.activities, minutes = s.minutes + excluded.minutes, km = s.km + excluded.km, updated_at = excluded.updated_at`

const statementsOf = statementsOn((schema) => ({
  countFirst: `
  WITH counted AS (
    INSERT INTO ${schema}.counted (activity_id, version, user_id, day, type, minutes, km) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING *
  ) ${adding(schema, 'SELECT user_id, day, type, 1, minutes, km FROM counted')}`,
  counted: `INSERT INTO ${schema}.counted (activity_id, version) VALUES ($1, 0) ON CONFLICT DO NOTHING`,
  /** Out with what is counted of it, in with what it is now. Rows are taken in one order, so that two such never wait for each other. */
  countAgain: `
  WITH before AS (
    SELECT * FROM ${schema}.counted WHERE activity_id = $1 AND version < $2 FOR UPDATE
  ), after AS (
    UPDATE ${schema}.counted c SET version = $2, user_id = $3, day = CASE WHEN $8 THEN NULL ELSE $4::date END, type = $5, minutes = $6, km = $7
    FROM before WHERE c.activity_id = before.activity_id RETURNING c.*
  ) ${adding(
    schema,
    `SELECT user_id, day, type, sum(n), sum(n * minutes), sum(n * km)
     FROM (SELECT -1 AS n, * FROM before UNION ALL SELECT 1, * FROM after) AS change WHERE day IS NOT NULL
     GROUP BY user_id, day, type ORDER BY user_id, day, type`,
  )}`,
  award: `
  INSERT INTO ${schema}.badges AS b (activity_id, version, user_id, names, earned_on) VALUES ($1, $2, $3, $4, $5)
  ON CONFLICT (activity_id) DO UPDATE SET version = excluded.version, names = excluded.names, earned_on = excluded.earned_on WHERE b.version < excluded.version`,
  record: `INSERT INTO ${schema}.audit (event_id, event, activity, occurred_at, request_id, trace_id) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
}))

const countedOf = ({ id, version, userId, activityDate, type, durationMinutes, distanceKm = 0 }: Activity): unknown[] => [
  id,
  version,
  userId,
  activityDate,
  type,
  durationMinutes,
  distanceKm,
]
