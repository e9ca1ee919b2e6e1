import { hash } from 'node:crypto'
import { isTenantName } from '../domain/tenant.ts'
import type { Database } from './database.ts'
import { type WaitOptions, whenFree } from './when-free.ts'

/** Holds what all tenants share: outbox, inbox and the broker's tables. */
export const sharedSchema = 'activelog'

/** The quoted schema of a tenant. Throws `RangeError` for what cannot be a tenant's name, whoever sent it. */
export function schemaOf(tenant: string): string {
  if (!isTenantName(tenant)) throw Object.assign(new RangeError(`Not a tenant's name: ${JSON.stringify(tenant.slice(0, 100))}`), { retryable: false })
  return `"tenant_${tenant}"`
}

/** The statements on each tenant's schema, put together once: a string that has been a key before is found again without being read. */
export function statementsOn<T>(make: (schema: string) => T): (tenant: string) => T {
  const made = new Map<string, T>()
  return (tenant) => {
    let statements = made.get(tenant)
    if (statements === undefined) made.set(tenant, (statements = make(schemaOf(tenant))))
    return statements
  }
}

/**
 * Makes what is missing, and where nothing is takes no lock: an index that is there would still be waited for, behind whoever writes, and all who write behind it.
 * Any number of processes may do so at once: IF NOT EXISTS alone would fail for some of them.
 */
export async function createTables(db: Database, tenants: readonly string[], shared: readonly string[], options?: WaitOptions): Promise<void> {
  const make = (what: string, statements: readonly string[]): Promise<void> =>
    whenFree(
      db,
      what,
      async (tx) => {
        await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('activelog tables', 0))")
        // Makes the session forget what it believes of schemas: IF NOT EXISTS would go by what it saw before it waited.
        await tx.query('SELECT FROM pg_catalog.pg_namespace LIMIT 1')
        await tx.query('SET LOCAL client_min_messages = warning')
        for (const sql of statements) await tx.query(sql)
      },
      options,
    )
  await make(sharedSchema, shared) // each looks first, too
  const { rows } = await db.query(
    `SELECT obj_description(to_regclass(schema || '.activities'), 'pg_class') AS comment FROM unnest($1::text[]) WITH ORDINALITY AS of(schema, n) ORDER BY n`,
    [tenants.map(schemaOf)],
  )
  for (const [n, tenant] of tenants.entries()) {
    const schema = schemaOf(tenant)
    const sql = tenantTables(schema)
    const made = `activelog ${hash('sha256', sql, 'base64url')}`
    if ((rows as { comment: string | null }[])[n]?.comment !== made) await make(schema, [sql, `COMMENT ON TABLE ${schema}.activities IS '${made}'`])
  }
}

function tenantTables(schema: string): string {
  return `
CREATE SCHEMA IF NOT EXISTS ${schema};

-- Written by requests. A deleted activity keeps its row: its versions count its events.
CREATE TABLE IF NOT EXISTS ${schema}.activities (
  id uuid PRIMARY KEY,
  user_id bigint NOT NULL,
  type text NOT NULL,
  title text NOT NULL,
  description text,
  duration_minutes integer NOT NULL,
  distance_km numeric,
  calories_burned integer,
  notes text,
  activity_date date NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  version integer NOT NULL,
  deleted boolean NOT NULL DEFAULT false
);
CREATE INDEX IF NOT EXISTS activities_of_user ON ${schema}.activities (user_id, id);
CREATE TABLE IF NOT EXISTS ${schema}.idempotency_keys (
  key text PRIMARY KEY,
  fingerprint text NOT NULL,
  response json NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
-- What /events tells. Transactions are the one order that nobody can still get in front of: ids are made before the commit.
CREATE TABLE IF NOT EXISTS ${schema}.events (
  id uuid PRIMARY KEY,
  txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  name text NOT NULL,
  activity json NOT NULL,
  written_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS events_in_order ON ${schema}.events (txid, id);
CREATE INDEX IF NOT EXISTS events_by_time ON ${schema}.events USING brin (written_at) WITH (autosummarize = on);

-- Written by handlers: what of each activity stands in the sums, and the sums.
CREATE TABLE IF NOT EXISTS ${schema}.counted (
  activity_id uuid PRIMARY KEY,
  version integer NOT NULL,
  user_id bigint,
  day date,
  type text,
  minutes integer,
  km numeric
);
CREATE TABLE IF NOT EXISTS ${schema}.day_sums (
  user_id bigint NOT NULL,
  day date NOT NULL,
  type text NOT NULL,
  activities integer NOT NULL,
  minutes bigint NOT NULL,
  km numeric NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (user_id, day, type)
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS ${schema}.badges (
  activity_id uuid PRIMARY KEY,
  version integer NOT NULL,
  user_id bigint NOT NULL,
  names text[] NOT NULL,
  earned_on date NOT NULL
);
CREATE INDEX IF NOT EXISTS badges_of_user ON ${schema}.badges (user_id);
CREATE TABLE IF NOT EXISTS ${schema}.audit (
  event_id uuid PRIMARY KEY,
  event text NOT NULL,
  activity json NOT NULL,
  occurred_at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  request_id text,
  trace_id text
)`
}
