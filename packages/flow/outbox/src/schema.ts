/** Versions of the tables, kept as a comment: of the outbox on its main one. */
const outboxVersion = 2
const inboxVersion = 1

/** What is published in sequence; a message without a key is a lane of its own, and no topic is empty. */
const lane = `coalesce(topic || '/' || key, '/' || message_id)`

/** The lane of a row that has a key. */
export const keyed = (of = ''): string => `${of}topic || '/' || ${of}key`

/** By which the rows of a lane are found among those set aside: a key may be too long for an index. */
export const laneHash = (lane: string): string => `hashtextextended(${lane}, 0)`

export interface Names {
  /** As given, for messages and the channel. */
  readonly label: string
  readonly namespace: string
  readonly table: string
  readonly held: string
  readonly leases: string
  readonly relays: string
  readonly sequence: string
  readonly next: string
  readonly aside: string
  /** As the catalogue has it. A number goes up with what the function, or an index made with it, is. */
  readonly nextName: string
}

const identifier = /^[A-Za-z_][A-Za-z0-9_]{0,39}$/

function checked(what: string, name: string): string {
  if (!identifier.test(name)) throw new RangeError(`${what} must match ${identifier.source}, got ${JSON.stringify(name)}`)
  return name
}

/** Quoted names of an outbox's tables. Names are short enough that no suffix is cut off. */
export function outboxNames(schema: string, table: string): Names {
  checked('schema', schema)
  checked('table', table)
  const name = (suffix: string): string => `"${schema}"."${table}${suffix}"`
  return {
    label: `${schema}.${table}`,
    namespace: schema,
    table: name(''),
    held: name('_held'),
    leases: name('_leases'),
    relays: name('_relays'),
    sequence: name('_id_seq'),
    next: name('_next3'),
    aside: name('_aside'),
    nextName: `${table}_next3`,
  }
}

export function inboxName(schema: string, table: string): { label: string; namespace: string; table: string; index: string } {
  checked('schema', schema)
  checked('table', table)
  return { label: `${schema}.${table}`, namespace: schema, table: `"${schema}"."${table}"`, index: `"${table}_processed_at"` }
}

/** Makes the namespace, and sets `version` to the comment on the table, or NULL. Asks the catalogue itself: `to_regclass` may answer from what the session knew before it waited. */
function lookUp({ label }: { label: string }): string {
  const [namespace, table] = label.split('.')
  return `  IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = '${namespace}') THEN
    CREATE SCHEMA "${namespace}";
  END IF;
  SELECT coalesce(obj_description(c.oid, 'pg_class'), '') INTO version
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '${namespace}' AND c.relname = '${table}';`
}

/** Where a relation is not there. Not IF NOT EXISTS: that may go by what the session knew before it waited. */
function unless({ label }: Names, suffix: string, sql: string): string {
  const [namespace, table] = label.split('.')
  return `  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '${namespace}' AND c.relname = '${table}${suffix}') THEN
${sql}
  END IF;`
}

/**
 * One command, so that every client can run it and it is atomic: the lock is for several processes that do the same.
 * Makes what is missing and leaves alone what is there, but for the sequence, which a copy of the rows without it would leave behind.
 */
export function outboxSchema(names: Names, partitions: number): string {
  const columns = `
      message_id text NOT NULL,
      topic text NOT NULL,
      key text,
      value bytea NOT NULL,
      headers json,
      timestamp timestamptz,
      dedupe_id text,
      created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
      partition smallint NOT NULL GENERATED ALWAYS AS (hashtext(coalesce(topic || '/' || key, message_id)) & ${partitions - 1}) STORED`
  return `DO $outbox$
DECLARE
  version text;
  found integer;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('core-backend outbox ${names.label}', 0));
${lookUp(names)}
  IF version <> 'core-backend outbox ${outboxVersion}' THEN
    RAISE EXCEPTION 'table ${names.label} is not a core-backend outbox of version ${outboxVersion}: its comment says %', version;
  END IF;
${unless(names, '_id_seq', `    CREATE SEQUENCE ${names.sequence} AS bigint;`)}
${unless(
  names,
  '_held',
  `    CREATE TABLE ${names.held} (
      id bigint PRIMARY KEY DEFAULT nextval('${names.sequence}'),${columns},
      state text NOT NULL CHECK (state IN ('delayed', 'parked', 'released', 'blocked')),
      due_at timestamptz CHECK ((due_at IS NULL) = (state <> 'delayed')),
      attempts integer NOT NULL DEFAULT 0,
      error_code text,
      error_message text,
      held_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX ON ${names.held} (partition, due_at) WHERE due_at IS NOT NULL;
    CREATE INDEX ON ${names.held} (state, id) WHERE due_at IS NULL;
    CREATE INDEX ON ${names.held} (${laneHash(keyed())}, id) WHERE due_at IS NULL AND key IS NOT NULL;`,
)}
  IF version IS NULL THEN
    CREATE TABLE ${names.table} (
      id bigint NOT NULL DEFAULT nextval('${names.sequence}'),${columns},
      PRIMARY KEY (partition, id)
    ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
    ALTER SEQUENCE ${names.sequence} OWNED BY ${names.table}.id;
    -- Where the table was dropped, its sequence went too, and with that this default.
    ALTER TABLE ${names.held} ALTER id SET DEFAULT nextval('${names.sequence}');
    COMMENT ON TABLE ${names.table} IS 'core-backend outbox ${outboxVersion}';
  END IF;
${unless(
  names,
  '_leases',
  `    CREATE TABLE ${names.leases} (
      partition smallint PRIMARY KEY,
      owner text,
      epoch bigint NOT NULL DEFAULT 0,
      expires_at timestamptz NOT NULL DEFAULT '-infinity'
    ) WITH (fillfactor = 50);
    INSERT INTO ${names.leases} (partition) SELECT generate_series(0, ${partitions - 1});`,
)}
${unless(names, '_relays', `    CREATE TABLE ${names.relays} (relay text PRIMARY KEY, expires_at timestamptz NOT NULL) WITH (fillfactor = 50);`)}
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = '${names.namespace}' AND p.proname = '${names.nextName}') THEN
${nextFunction(names, partitions)}
${asideFunction(names)}
  END IF;
  SELECT count(*) INTO found FROM ${names.leases};
  IF found <> ${partitions} THEN
    RAISE EXCEPTION 'outbox ${names.label} has % partitions, not ${partitions}', found;
  END IF;
  PERFORM setval('${names.sequence}', top) FROM (
    SELECT greatest((SELECT max(id) FROM ${names.table}), (SELECT max(id) FROM ${names.held})) AS top
  ) AS rows WHERE top > (SELECT last_value FROM ${names.sequence});
END $outbox$`
}

/** Rows of a partition, where topics are left out and no id says how far to look: the rest of a backlog would be read for nothing each time. */
const looksAt = 5_000

/**
 * Deletes what is done and returns the next rows by id: one ordered index scan a partition, merged lazily, so that with a million rows behind only `most` are read.
 * The scan of a partition that is not asked for compares with NULL and ends at once: so the query is the same for whoever holds what, and is planned once a connection.
 * Lanes are left out by NOT IN, which is a hash whatever is switched off: <> ALL would compare each row with each of them.
 * A function for the sake of its settings: an outbox grows from empty to huge and back while the planner believes what it was at the last ANALYZE, and then
 * likes to read all of it and sort. The settings leave it no other plan than this one. A join to delete by would leave it the choice to read all for each row.
 * Where there are few rows, a scan that is begun anew for each partition costs a fifth of that: what takes longest is to set up a plan of so many parts.
 */
function nextFunction(names: Names, partitions: number): string {
  const scan = (_: unknown, partition: number): string => `
        (SELECT * FROM (
           SELECT * FROM ${names.table} WHERE partition = ${partition} AND id > lows[array_position(partitions, ${partition}::smallint)] AND id <= coalesce(up_to, ${2n ** 63n - 1n}) ORDER BY id
           LIMIT CASE WHEN up_to IS NULL AND except_topics <> '{}' THEN ${looksAt} END
         ) AS head WHERE (except_lanes = '{}' OR ${lane} NOT IN (SELECT unnest(except_lanes))) AND (except_topics = '{}' OR topic <> ALL (except_topics)) ORDER BY id LIMIT most)`
  return `CREATE FUNCTION ${names.next}(done_partitions smallint[], done_ids bigint[], partitions smallint[], lows bigint[], except_lanes text[], except_topics text[], up_to bigint, most integer, few boolean)
RETURNS SETOF ${names.table} LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $next$
BEGIN
  IF cardinality(done_ids) > 0 THEN
    DELETE FROM ${names.table} WHERE ctid = ANY (ARRAY(SELECT found.ctid FROM unnest(done_partitions, done_ids) AS d(partition, id) CROSS JOIN LATERAL (
      SELECT ctid FROM ${names.table} t WHERE t.partition = d.partition AND t.id = d.id OFFSET 0) AS found));
  END IF;
  IF few AND up_to IS NULL AND except_lanes = '{}' AND except_topics = '{}' THEN
    RETURN QUERY SELECT r.* FROM unnest(partitions, lows) AS p(partition, low) CROSS JOIN LATERAL (
      SELECT * FROM ${names.table} t WHERE t.partition = p.partition AND t.id > p.low ORDER BY t.id LIMIT most) AS r ORDER BY r.id LIMIT most;
  ELSIF cardinality(partitions) > 0 THEN
    RETURN QUERY SELECT * FROM (${Array.from({ length: partitions }, scan).join(' UNION ALL')}
      ) AS r ORDER BY id LIMIT most;
  END IF;
END $next$;`
}

/** The rows of a lane that are set aside, the oldest first, however many there are: a function for its settings too, as the planner would read all of them and sort. */
function asideFunction(names: Names): string {
  return `CREATE OR REPLACE FUNCTION ${names.aside}(lane text, most integer) RETURNS TABLE (id bigint, partition smallint) LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $aside$
BEGIN
  RETURN QUERY SELECT h.id, h.partition FROM ${names.held} h
  WHERE ${laneHash(keyed('h.'))} = ${laneHash('lane')} AND h.due_at IS NULL AND h.key IS NOT NULL AND ${keyed('h.')} = lane ORDER BY h.id LIMIT most;
END $aside$;`
}

export function inboxSchema(names: ReturnType<typeof inboxName>): string {
  return `DO $inbox$
DECLARE
  version text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('core-backend inbox ${names.label}', 0));
${lookUp(names)}
  IF version IS NULL THEN
    CREATE TABLE ${names.table} (
      message_id text NOT NULL,
      handler text NOT NULL,
      processed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
      PRIMARY KEY (message_id, handler)
    );
    CREATE INDEX ${names.index} ON ${names.table} USING brin (processed_at) WITH (autosummarize = on);
    COMMENT ON TABLE ${names.table} IS 'core-backend inbox ${inboxVersion}';
  ELSIF version <> 'core-backend inbox ${inboxVersion}' THEN
    RAISE EXCEPTION 'table ${names.label} is not a core-backend inbox of version ${inboxVersion}: its comment says %', version;
  END IF;
END $inbox$`
}
