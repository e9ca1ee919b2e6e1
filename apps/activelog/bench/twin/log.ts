import { context, propagation, SpanKind, trace } from '@opentelemetry/api'
import type { Database } from './database.ts'

/** A message of the log. `seq` as text: PostgreSQL's bigint. */
export interface Logged {
  seq: string
  id: string
  key: string
  headers: string
  value: Buffer
}

export interface Loop {
  /** There may be something to do. */
  wake(): void
}

const batch = 500
const pollMs = 100

/** Runs `turn` again at once while it says that there was work, else when woken or after `pollMs`. Retries after a pause for ever. */
export function loop(turn: () => Promise<boolean>, onError: (error: unknown) => void): Loop {
  let woken = false
  let awake = (): void => {}
  void (async () => {
    for (;;) {
      woken = false
      const busy = await turn().catch((error: unknown) => {
        onError(error)
        return false
      })
      if (busy || woken) continue
      const { promise, resolve } = Promise.withResolvers<void>()
      awake = resolve
      const timer = setTimeout(() => resolve(), pollMs)
      await promise
      clearTimeout(timer)
    }
  })()
  return {
    wake: () => {
      woken = true
      awake()
    },
  }
}

/** Outbox to log: delete a batch, write it to the log, commit. One of it may run, or messages of one key lose their order. */
export function relay(db: Database, onError: (error: unknown) => void, onPublished: () => void): Loop {
  const tracer = trace.getTracer('activelog')
  return loop(async () => {
    const moved = await db.transaction(async (query) => {
      const { rows } = await query(
        `WITH gone AS (DELETE FROM activelog.outbox WHERE id IN (SELECT id FROM activelog.outbox ORDER BY id LIMIT $1) RETURNING *)
         SELECT message_id AS id, topic, key, value, headers, extract(epoch FROM timestamp)::float8 * 1000 AS ts FROM gone ORDER BY gone.id`,
        [batch],
      )
      const messages = rows as { id: string; topic: string; key: string; value: Buffer; headers: Record<string, string>; ts: number }[]
      if (messages.length === 0) return 0
      const spans = messages.map(({ id, topic, headers }) => {
        const parent = propagation.extract(context.active(), headers)
        const attributes = { 'messaging.operation.name': 'publish', 'messaging.destination.name': topic, 'messaging.message.id': id }
        const span = tracer.startSpan(`publish ${topic}`, { kind: SpanKind.PRODUCER, attributes }, parent)
        propagation.inject(trace.setSpan(parent, span), headers)
        return span
      })
      await query(
        'INSERT INTO activelog.log (ts, id, key, headers, value) SELECT * FROM unnest($1::float8[], $2::text[], $3::text[], $4::text[], $5::bytea[])',
        [
          messages.map(({ ts }) => ts),
          messages.map(({ id }) => id),
          messages.map(({ key }) => key),
          messages.map(({ headers }) => JSON.stringify(headers)),
          messages.map(({ value }) => value),
        ],
      )
      for (const span of spans) span.end()
      return messages.length
    })
    if (moved > 0) onPublished()
    return moved === batch
  }, onError)
}

/** Messages after `seq`, in order. */
export async function read(db: Database, seq: string): Promise<Logged[]> {
  const { rows } = await db.query('SELECT seq, id, key, headers, value FROM activelog.log WHERE seq > $1 ORDER BY seq LIMIT $2', [seq, batch])
  return rows as Logged[]
}
