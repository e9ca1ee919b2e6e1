import { context, propagation, SpanKind, trace } from '@opentelemetry/api'
import { type Activity, badgesOf } from './activity.ts'
import type { Database, Query } from './database.ts'
import { type Logged, type Loop, loop, read } from './log.ts'

const concurrency = 16
const queued = 1_000
const storeMs = 200

interface Event {
  id: string
  name: string
  tenant: string
  time: string
  requestId: string | undefined
  traceId: string | undefined
  activity: Activity
}

function eventOf({ headers, value }: Logged): { event: Event; headers: Record<string, string> } {
  const given = JSON.parse(headers) as Record<string, string>
  const event = {
    id: given['ce_id']!,
    name: given['ce_type']!,
    tenant: given['ce_tenantid']!,
    time: given['ce_time']!,
    requestId: given['ce_correlationid'],
    traceId: given['traceparent']?.split('-')[1],
    activity: JSON.parse(value.toString()) as Activity,
  }
  return { event, headers: given }
}

/** Only new activities: there is no PATCH and no DELETE here. */
const handlers: Record<string, (query: Query, event: Event) => Promise<unknown>> = {
  statistics: (query, { tenant, activity }) =>
    query(
      `WITH counted AS (
         INSERT INTO "tenant_${tenant}".counted (activity_id, version, user_id, day, type, minutes, km) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING *
       )
       INSERT INTO "tenant_${tenant}".day_sums AS s (user_id, day, type, activities, minutes, km) SELECT user_id, day, type, 1, minutes, km FROM counted
       ON CONFLICT (user_id, day, type) DO UPDATE
       SET activities = s.activities + excluded.activities, minutes = s.minutes + excluded.minutes, km = s.km + excluded.km, updated_at = excluded.updated_at`,
      [activity.id, activity.version, activity.userId, activity.activityDate, activity.type, activity.durationMinutes, activity.distanceKm ?? 0],
    ),
  badges: async (query, { tenant, activity }) => {
    const badges = badgesOf(activity)
    if (badges.length > 0)
      await query(
        `INSERT INTO "tenant_${tenant}".badges (activity_id, version, user_id, names, earned_on) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
        [activity.id, activity.version, activity.userId, badges, activity.activityDate],
      )
  },
  audit: (query, { tenant, id, name, activity, time, requestId, traceId }) =>
    query(
      `INSERT INTO "tenant_${tenant}".audit (event_id, event, activity, occurred_at, request_id, trace_id) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
      [id, name, JSON.stringify(activity), time, requestId ?? null, traceId ?? null],
    ),
}

/** All handlers in one transaction, with the records that they ran. */
async function handle(db: Database, event: Event): Promise<void> {
  await db.transaction(async (query) => {
    const { rows } = await query(
      'INSERT INTO activelog.inbox (message_id, handler) SELECT $1::text, unnest($2::text[]) ON CONFLICT DO NOTHING RETURNING handler',
      [event.id, Object.keys(handlers)],
    )
    await Promise.all((rows as { handler: string }[]).map(({ handler }) => handlers[handler]!(query, event)))
  })
}

/** Reads on while it works, keeps the order of each key, stores now and then up to where everything is done. A failure ends the process: another start reads it again. */
export async function worker(db: Database, onError: (error: unknown) => void): Promise<Loop> {
  const tracer = trace.getTracer('activelog')
  const { rows } = await db.query(`SELECT seq FROM activelog.cursors WHERE name = 'worker'`)
  let at = (rows[0] as { seq: string }).seq
  let stored = at
  const waiting: { seq: string; done: boolean }[] = []
  const lanes = new Map<string, Promise<void>>()
  const turns: (() => void)[] = []
  let running = 0

  const work = async (message: Logged): Promise<void> => {
    if (running >= concurrency) await new Promise<void>((resolve) => turns.push(resolve))
    else running++
    const { event, headers } = eventOf(message)
    const parent = propagation.extract(context.active(), headers)
    const attributes = { 'messaging.operation.name': 'process', 'messaging.message.id': message.id }
    const span = tracer.startSpan('process activities', { kind: SpanKind.CONSUMER, attributes }, parent)
    await context.with(trace.setSpan(parent, span), () => handle(db, event))
    span.end()
    const next = turns.shift()
    if (next) next()
    else running--
  }

  const reading = loop(async () => {
    if (waiting.length >= queued) return false
    const messages = await read(db, at)
    for (const message of messages) {
      const { seq, key } = message
      const entry = { seq, done: false }
      waiting.push(entry)
      const lane = (lanes.get(key) ?? Promise.resolve())
        .then(() => work(message))
        .then(() => {
          entry.done = true
          if (lanes.get(key) === lane) lanes.delete(key)
          const full = waiting.length >= queued
          while (waiting[0]?.done) stored = waiting.shift()!.seq
          if (full && waiting.length < queued) reading.wake()
        })
      lane.catch(onError)
      lanes.set(key, lane)
    }
    at = messages.at(-1)?.seq ?? at
    return messages.length > 0
  }, onError)

  let written = stored
  setInterval(() => {
    if (written === stored) return
    written = stored
    db.query(`UPDATE activelog.cursors SET seq = $1 WHERE name = 'worker'`, [written]).catch(onError)
  }, storeMs)
  return reading
}

/** Hands every event to those who watch `/events`; reads none while nobody does. */
export function broadcast(db: Database, watched: () => boolean, onEvent: (event: Event) => void, onError: (error: unknown) => void): Loop {
  let at: string | undefined
  return loop(async () => {
    if (!watched()) {
      at = undefined
      return false
    }
    at ??= ((await db.query('SELECT coalesce(max(seq), 0) AS seq FROM activelog.log')).rows[0] as { seq: string }).seq
    const messages = await read(db, at)
    for (const message of messages) onEvent(eventOf(message).event)
    at = messages.at(-1)?.seq ?? at
    return messages.length > 0
  }, onError)
}
