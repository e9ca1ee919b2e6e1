import { checkOptions, isString } from '#internal/options'
import { MessagingError } from '../errors.ts'
import { functionsSql } from './functions.ts'
import { rotationSql, segments } from './rotation.ts'

/** Of the tables below. A database with a newer one is refused, an older one is brought up. */
const schemaVersion = 1

const names = /^[A-Za-z_][A-Za-z0-9_-]{0,47}$/

/** A schema's name is the one name that becomes an identifier. */
export function quoteSchema(schema: string): string {
  if (typeof schema !== 'string' || !names.test(schema))
    throw new RangeError(`Bad schema ${JSON.stringify(schema)}: 1 to 48 of A-Z a-z 0-9 _ -, beginning with a letter or _`)
  return `"${schema}"`
}

/**
 * The tables as SQL text, for a migration tool; `setup: 'create'` runs the same text. The role that publishes and consumes needs USAGE on the schema, SELECT, INSERT, UPDATE,
 * DELETE and TRUNCATE on its tables, and EXECUTE on its functions.
 */
export function schema(options: { schema?: string } = {}): string {
  checkOptions('schema', options, { schema: isString })
  const { schema: name = 'messaging' } = options
  const s = quoteSchema(name)
  return `-- @core-backend/messaging, schema version ${schemaVersion}
CREATE SCHEMA IF NOT EXISTS ${s};
CREATE TABLE ${s}.version (version integer NOT NULL);
INSERT INTO ${s}.version VALUES (${schemaVersion});

CREATE TABLE ${s}.topics (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE,
  unique_name text COLLATE "C" NOT NULL UNIQUE,
  partitions integer NOT NULL,
  keep boolean NOT NULL,
  max_age_ms double precision
);
-- next: the offset that the next message gets. low: what stands before it was removed by age. Rows are narrow and updated in place (HOT).
CREATE TABLE ${s}.partitions (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic_id integer NOT NULL REFERENCES ${s}.topics ON DELETE CASCADE,
  partition integer NOT NULL,
  keep boolean NOT NULL,
  next bigint NOT NULL DEFAULT 0,
  low bigint NOT NULL DEFAULT 0,
  UNIQUE (topic_id, partition)
) WITH (fillfactor = 40);

-- The log. headers: a JSON object, NULL when empty; what is under its name "" no text column can hold. value: NULL for a tombstone. ts: ms since the epoch.
CREATE TABLE ${s}.messages (
  segment smallint NOT NULL,
  pid integer NOT NULL,
  "offset" bigint NOT NULL,
  ts double precision NOT NULL,
  id text NOT NULL,
  key text,
  headers text,
  value bytea
) PARTITION BY LIST (segment);
${[...segments, -1].map((n) => leaf(s, n)).join('\n')}
CREATE TABLE ${s}.rotation (one boolean PRIMARY KEY DEFAULT true CHECK (one), current smallint NOT NULL, since timestamptz NOT NULL, maintained_at timestamptz NOT NULL);
INSERT INTO ${s}.rotation (current, since, maintained_at) VALUES (0, now(), '-infinity');
CREATE TABLE ${s}.ages (pid integer REFERENCES ${s}.partitions ON DELETE CASCADE, below bigint, at timestamptz NOT NULL, PRIMARY KEY (pid, below));

CREATE TABLE ${s}.groups (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic_id integer NOT NULL REFERENCES ${s}.topics ON DELETE CASCADE,
  name text COLLATE "C" NOT NULL,
  UNIQUE (topic_id, name)
);
-- watermark: the first offset not settled. above: what is settled beyond it, a bit an offset, the first one's being above_from. owner and epoch: the lease.
-- settlement: the number of the owner's last one that is in here.
CREATE TABLE ${s}.cursors (
  group_id integer REFERENCES ${s}.groups ON DELETE CASCADE,
  pid integer REFERENCES ${s}.partitions ON DELETE CASCADE,
  watermark bigint NOT NULL,
  above bytea,
  above_from bigint,
  settlement bigint NOT NULL DEFAULT 0,
  epoch bigint NOT NULL DEFAULT 0,
  owner text,
  expires_at timestamptz NOT NULL DEFAULT '-infinity',
  PRIMARY KEY (group_id, pid)
) WITH (fillfactor = 40);
CREATE INDEX cursors_pid ON ${s}.cursors (pid);
-- below: the first offset that nobody was handed; only who reads under this epoch moves it. A row of its own: reading does not wait until a settlement is on the disk.
CREATE TABLE ${s}.handed (
  group_id integer,
  pid integer,
  epoch bigint NOT NULL DEFAULT 0,
  below bigint NOT NULL,
  PRIMARY KEY (group_id, pid),
  FOREIGN KEY (group_id, pid) REFERENCES ${s}.cursors ON DELETE CASCADE
) WITH (fillfactor = 40);
CREATE TABLE ${s}.members (
  group_id integer REFERENCES ${s}.groups ON DELETE CASCADE,
  member text COLLATE "C",
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (group_id, member)
) WITH (fillfactor = 40);
CREATE TABLE ${s}.starts (
  group_id integer,
  pid integer,
  "offset" bigint,
  n integer NOT NULL,
  PRIMARY KEY (group_id, pid, "offset"),
  FOREIGN KEY (group_id, pid) REFERENCES ${s}.cursors ON DELETE CASCADE
);

CREATE TABLE ${s}.producers (id text PRIMARY KEY, seq bigint NOT NULL, seen_at timestamptz NOT NULL) WITH (fillfactor = 40);
CREATE TABLE ${s}.dedupe (
  topic_id integer REFERENCES ${s}.topics ON DELETE CASCADE,
  digest bytea,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (topic_id, digest)
);
CREATE INDEX dedupe_expires_at ON ${s}.dedupe (expires_at);
CREATE TABLE ${s}.delayed (
  n bigint GENERATED ALWAYS AS IDENTITY,
  due double precision NOT NULL,
  pid integer NOT NULL REFERENCES ${s}.partitions ON DELETE CASCADE,
  ts double precision NOT NULL,
  id text NOT NULL,
  key text,
  headers text,
  value bytea,
  PRIMARY KEY (due, n)
);
CREATE INDEX delayed_pid ON ${s}.delayed (pid);
CREATE TABLE ${s}.marks (
  topic_id integer REFERENCES ${s}.topics ON DELETE CASCADE,
  letter_id text COLLATE "C",
  mark text NOT NULL,
  position bigint NOT NULL,
  PRIMARY KEY (topic_id, letter_id)
);
${functionsSql(s)}

${rotationSql(s)}`
}

function leaf(s: string, n: number): string {
  const table = `${s}.${leafName(n)}`
  return `CREATE TABLE ${table} PARTITION OF ${s}.messages FOR VALUES IN (${n});\nALTER TABLE ${table} ADD PRIMARY KEY (pid, "offset");`
}

const leafName = (n: number): string => (n < 0 ? 'messages_kept' : `messages_${n}`)

const tables = 'version topics partitions messages rotation ages groups cursors handed members starts producers dedupe delayed marks'.split(' ')

export interface Setup {
  /** Brings the tables up, or sees that they are there. */
  run(query: (text: string, values?: unknown[]) => Promise<unknown[]>): Promise<void>
}

export function createSetup(name: string, mode: 'create' | 'expect'): Setup {
  const s = quoteSchema(name)
  const lookSql = `SELECT coalesce(array_to_string(array_agg(t), ' '), '') AS missing FROM unnest(string_to_array($1::text, ' ')) t WHERE to_regclass($2::text || '.' || t) IS NULL`
  // IF NOT EXISTS is not enough: two creators meet in the catalogue and one fails. The lock ends with the statement, also behind a pooler.
  const createSql = `DO $setup$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('core-backend.messaging'), hashtext('${name}'));
  -- Not to_regclass: it may answer from what this session knew before it waited.
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '${name}' AND c.relname = 'version') THEN
${schema({ schema: name })}
  END IF;
END
$setup$`
  const mismatch = (message: string): MessagingError => new MessagingError('ERR_MESSAGING_TOPOLOGY_MISMATCH', message, { retryable: false })

  return {
    run: async (query) => {
      const look = async (): Promise<string> => ((await query(lookSql, [tables.join(' '), s])) as { missing: string }[])[0]!.missing
      let missing = await look()
      if (missing !== '' && mode === 'create') {
        await query(createSql)
        missing = await look()
      }
      if (missing !== '')
        throw mismatch(`Schema ${name} lacks the tables ${missing.replaceAll(' ', ', ')}: run what schema({ schema: '${name}' }) gives, or use setup: 'create'`)
      const [row] = (await query(`SELECT version FROM ${s}.version`)) as { version: number }[]
      if (row?.version !== schemaVersion) throw mismatch(`Schema ${name} has version ${row?.version}, this package needs ${schemaVersion}`)
    },
  }
}
