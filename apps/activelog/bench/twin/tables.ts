/** The columns and indexes of the application's own tables, and the simplest that serves as a log. */
export const tables = (tenants: readonly string[]): string => `
CREATE SCHEMA activelog;
CREATE TABLE activelog.outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message_id text NOT NULL,
  topic text NOT NULL,
  key text,
  value bytea NOT NULL,
  headers json,
  timestamp timestamptz,
  dedupe_id text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  partition smallint NOT NULL GENERATED ALWAYS AS (hashtext(coalesce(topic || '/' || key, message_id)) & 15) STORED
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
CREATE TABLE activelog.inbox (
  message_id text NOT NULL,
  handler text NOT NULL,
  processed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (message_id, handler)
);
CREATE INDEX ON activelog.inbox USING brin (processed_at) WITH (autosummarize = on);
CREATE TABLE activelog.log (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  ts double precision NOT NULL,
  id text NOT NULL,
  key text,
  headers text,
  value bytea
);
CREATE TABLE activelog.cursors (name text PRIMARY KEY, seq bigint NOT NULL);
INSERT INTO activelog.cursors VALUES ('worker', 0);
${tenants.map((tenant) => tenantTables(`"tenant_${tenant}"`)).join('\n')}`

const tenantTables = (schema: string): string => `
CREATE SCHEMA ${schema};
CREATE TABLE ${schema}.activities (
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
CREATE INDEX ON ${schema}.activities (user_id, id);
CREATE TABLE ${schema}.idempotency_keys (
  key text PRIMARY KEY,
  fingerprint text NOT NULL,
  response json NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE ${schema}.counted (
  activity_id uuid PRIMARY KEY,
  version integer NOT NULL,
  user_id bigint,
  day date,
  type text,
  minutes integer,
  km numeric
);
CREATE TABLE ${schema}.day_sums (
  user_id bigint NOT NULL,
  day date NOT NULL,
  type text NOT NULL,
  activities integer NOT NULL,
  minutes bigint NOT NULL,
  km numeric NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (user_id, day, type)
) WITH (fillfactor = 70);
CREATE TABLE ${schema}.badges (
  activity_id uuid PRIMARY KEY,
  version integer NOT NULL,
  user_id bigint NOT NULL,
  names text[] NOT NULL,
  earned_on date NOT NULL
);
CREATE INDEX ON ${schema}.badges (user_id);
CREATE TABLE ${schema}.events (
  id uuid PRIMARY KEY,
  txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  name text NOT NULL,
  activity json NOT NULL,
  written_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON ${schema}.events (txid, id);
CREATE INDEX ON ${schema}.events USING brin (written_at) WITH (autosummarize = on);
CREATE TABLE ${schema}.audit (
  event_id uuid PRIMARY KEY,
  event text NOT NULL,
  activity json NOT NULL,
  occurred_at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  request_id text,
  trace_id text
);`
