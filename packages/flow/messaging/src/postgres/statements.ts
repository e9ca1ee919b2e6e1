import { quoteSchema } from './schema.ts'

/**
 * Every statement the driver sends. Each is one transaction of its own, so a pooler in transaction mode and a client with one connection will do; the longer ones call what
 * `functions.ts` defines. Lists travel as array literals or JSON in text, bodies as one bytea: that costs both ends less than arrays of bytea.
 */
export function statements(schemaName: string): Statements {
  const s = quoteSchema(schemaName)
  /** Everything but bytea goes as text. */
  const call = (name: string, types: string): string =>
    `SELECT ${s}.${name}(${types
      .split(' ')
      .map((type, i) => (type === 'bytea' || type === 'text' ? `$${i + 1}::${type}` : `$${i + 1}::text::${type}`))
      .join(', ')})::text AS answer`

  const held = `c.owner = $2::text AND c.expires_at > clock_timestamp()`

  return {
    publish: call('publish', 'text bigint int[] int[] int[] int[] json json json float8[] int[] int[] bytea'),
    publishSpecial: call('publish_special', 'text bigint int[] int[] json json json float8[] int[] int[] bytea float8[] bytea[] float8'),
    moveDue: `SELECT pid, next FROM ${s}.move_due($1::text::float8)`,
    /** $1 group, $2 member, then by partition: $3 pid, $4 epoch, $5 from, $6 limit. */
    fetch: `SELECT * FROM ${s}.fetch($1::text::int, $2::text, $3::text::int[], $4::text::bigint[], $5::text::bigint[], $6::text::int[])`,
    /** $1 group, $2 member, $3 progress. */
    settle: call('settle', 'int text json'),

    /** For who reads without a group: by partition $1 pid, $2 from, $3 limit. */
    read: `SELECT * FROM ${s}.read($1::text::int[], $2::text::bigint[], $3::text::int[])`,
    /** $1 pid, $2 from, $3 limit, $4 bytes. */
    readLog: `SELECT * FROM ${s}.read_log($1::text::int, $2::text::bigint, $3::text::int, $4::text::float8)`,

    begin: `INSERT INTO ${s}.starts AS t SELECT c.group_id, c.pid, $5::text::bigint, 1 FROM ${s}.cursors c
WHERE c.group_id = $1::text::int AND c.pid = $3::text::int AND c.epoch = $4::text::bigint AND ${held}
ON CONFLICT (group_id, pid, "offset") DO UPDATE SET n = t.n + 1 RETURNING n`,

    /** $1 beats as JSON: group, member, ttl and what it holds. A row a group and member that is still there. */
    beat: `WITH beats AS MATERIALIZED (
  SELECT b.* FROM json_to_recordset($1::text::json) AS b(g int, m text, ttl float8, held json) JOIN ${s}.groups g ON g.id = b.g),
alive AS (
  INSERT INTO ${s}.members AS a SELECT g, m, clock_timestamp() + ttl * interval '1 ms' FROM beats ORDER BY g, m COLLATE "C"
  ON CONFLICT (group_id, member) DO UPDATE SET expires_at = excluded.expires_at),
locked AS MATERIALIZED (
  SELECT c.group_id, c.pid, b.ttl FROM beats b CROSS JOIN LATERAL json_to_recordset(b.held) AS h(pid int, epoch bigint)
  JOIN ${s}.cursors c ON c.group_id = b.g AND c.pid = h.pid AND c.owner = b.m AND c.epoch = h.epoch ORDER BY c.group_id, c.pid FOR NO KEY UPDATE OF c),
renewed AS MATERIALIZED (
  UPDATE ${s}.cursors c SET expires_at = clock_timestamp() + l.ttl * interval '1 ms' FROM locked l WHERE c.group_id = l.group_id AND c.pid = l.pid RETURNING c.group_id, c.pid)
SELECT b.g, b.m,
  (SELECT json_agg(a.member) FROM ${s}.members a WHERE a.group_id = b.g AND a.expires_at > clock_timestamp())::text AS members,
  (SELECT json_agg(json_build_array(c.pid, c.epoch, CASE WHEN r.pid IS NOT NULL OR c.expires_at > clock_timestamp() THEN c.owner END))
    FROM ${s}.cursors c LEFT JOIN renewed r ON r.group_id = c.group_id AND r.pid = c.pid WHERE c.group_id = b.g)::text AS leases
FROM beats b`,

    claim: `WITH claimed AS (
  UPDATE ${s}.cursors c SET owner = $2::text, epoch = c.epoch + 1, settlement = 0, expires_at = clock_timestamp() + $4::text::float8 * interval '1 ms'
  WHERE c.group_id = $1::text::int AND c.pid = $3::text::int AND (c.owner IS NULL OR c.expires_at <= clock_timestamp() OR c.owner = $2::text) RETURNING c.*),
-- After the cursor: what reads under the old epoch notes nothing any more.
noted AS (
  UPDATE ${s}.handed h SET epoch = c.epoch, below = greatest(h.below, c.watermark) FROM claimed c WHERE h.group_id = c.group_id AND h.pid = c.pid RETURNING h.pid, h.below)
SELECT c.epoch::float8 AS epoch, c.watermark::float8 AS watermark, n.below::float8 AS suspect_below,
  p.next::float8 AS next, encode(c.above, 'hex') AS above, c.above_from::float8 AS above_from
FROM claimed c JOIN noted n ON n.pid = c.pid JOIN ${s}.partitions p ON p.id = c.pid`,

    /** $5: what is left of the window that its owner took over as suspect stays so. */
    release: `WITH freed AS (
  UPDATE ${s}.cursors c SET owner = NULL, expires_at = '-infinity' WHERE c.group_id = $1::text::int AND c.pid = $3::text::int AND c.owner = $2::text AND c.epoch = $4::text::bigint RETURNING c.*)
UPDATE ${s}.handed h SET epoch = -1, below = greatest(f.watermark, $5::text::bigint) FROM freed f WHERE h.group_id = f.group_id AND h.pid = f.pid`,
    leave: `DELETE FROM ${s}.members WHERE group_id = $1::text::int AND member = $2::text`,

    /** $1 pids and $2 what is known of their heads: gives those that grew, and in how many ms the next delayed message is due, by the server's clock. */
    poll: `SELECT (SELECT json_agg(json_build_array(p.id, p.next)) FROM unnest($1::text::int[], $2::text::bigint[]) AS w(id, next) JOIN ${s}.partitions p ON p.id = w.id AND p.next > w.next)::text AS heads,
  (SELECT json_agg(w.id) FROM unnest($1::text::int[]) AS w(id) WHERE NOT EXISTS (SELECT FROM ${s}.partitions p WHERE p.id = w.id))::text AS gone,
  (SELECT min(due) FROM ${s}.delayed) - extract(epoch FROM clock_timestamp())::float8 * 1000 AS due_in_ms, extract(epoch FROM clock_timestamp())::float8 * 1000 AS now`,

    /** $1 names, or NULL for all. A row a topic. */
    topics: `SELECT t.id, t.name, t.partitions, t.keep, t.max_age_ms, (SELECT json_agg(p.id ORDER BY p.partition) FROM ${s}.partitions p WHERE p.topic_id = t.id)::text AS pids
FROM ${s}.topics t WHERE $1::text IS NULL OR t.name = ANY ($1::text::text[]) ORDER BY t.name`,
    twin: `SELECT name, partitions, keep, max_age_ms FROM ${s}.topics WHERE unique_name = $1::text`,
    createTopic: `WITH t AS (
  INSERT INTO ${s}.topics (name, unique_name, partitions, keep, max_age_ms) VALUES ($1::text, $2::text, $3::text::int, $4::text::boolean, $5::text::float8)
  ON CONFLICT DO NOTHING RETURNING id, partitions, keep)
INSERT INTO ${s}.partitions (topic_id, partition, keep) SELECT t.id, n, t.keep FROM t, generate_series(0, t.partitions - 1) n RETURNING topic_id`,
    /** What stands in segments goes with them; nobody can ask for it any more. */
    deleteTopic: `WITH locked AS MATERIALIZED (
  SELECT p.id FROM ${s}.partitions p JOIN ${s}.topics t ON t.id = p.topic_id WHERE t.name = $1::text ORDER BY p.id FOR UPDATE OF p),
kept AS (
  DELETE FROM ${s}.messages WHERE segment = -1 AND pid IN (SELECT id FROM locked))
DELETE FROM ${s}.topics WHERE name = $1::text AND EXISTS (SELECT FROM locked)`,

    group: `SELECT g.id, json_agg(json_build_array(c.pid, p.partition))::text AS pids FROM ${s}.groups g JOIN ${s}.topics t ON t.id = g.topic_id
JOIN ${s}.cursors c ON c.group_id = g.id JOIN ${s}.partitions p ON p.id = c.pid WHERE t.name = $1::text AND g.name = $2::text GROUP BY g.id`,
    /** $3 the kind of start, $4 its time, $5 its positions as JSON. Nothing when the topic or the group is there or not as it should be. */
    createGroup: `WITH g AS (
  INSERT INTO ${s}.groups (topic_id, name) SELECT id, $2::text FROM ${s}.topics WHERE name = $1::text ON CONFLICT DO NOTHING RETURNING id, topic_id),
c AS (
  INSERT INTO ${s}.cursors (group_id, pid, watermark) SELECT g.id, p.id, start.at FROM g JOIN ${s}.partitions p ON p.topic_id = g.topic_id ${startOffset(s)} RETURNING *)
INSERT INTO ${s}.handed (group_id, pid, below) SELECT group_id, pid, watermark FROM c RETURNING group_id`,
    deleteGroup: `DELETE FROM ${s}.groups g USING ${s}.topics t WHERE t.id = g.topic_id AND t.name = $1::text AND g.name = $2::text`,
    groups: `SELECT g.name,
  (SELECT count(*) FROM ${s}.members m WHERE m.group_id = g.id AND m.expires_at > clock_timestamp())::int AS members,
  ((SELECT coalesce(sum(p.next - c.watermark - ${s}.settled_between(c.above, c.above_from, c.watermark, p.next)), 0)
    FROM ${s}.cursors c JOIN ${s}.partitions p ON p.id = c.pid WHERE c.group_id = g.id)
  + (SELECT count(*) FROM ${s}.delayed d JOIN ${s}.partitions p ON p.id = d.pid WHERE p.topic_id = g.topic_id))::float8 AS lag,
  (SELECT min((SELECT m.ts FROM ${s}.messages m WHERE m.pid = c.pid AND m."offset" >= greatest(c.watermark, p.low)
    AND (c.above IS NULL OR ${s}.settled_between(c.above, c.above_from, m."offset", m."offset" + 1) = 0) ORDER BY m."offset" LIMIT 1))
    FROM ${s}.cursors c JOIN ${s}.partitions p ON p.id = c.pid WHERE c.group_id = g.id) AS oldest_at
FROM ${s}.groups g JOIN ${s}.topics t ON t.id = g.topic_id WHERE t.name = $1::text ORDER BY g.name`,

    /** As `createGroup`. A new epoch: whoever joins meanwhile must claim anew. */
    seek: `WITH g AS MATERIALIZED (
  SELECT g.id FROM ${s}.groups g JOIN ${s}.topics t ON t.id = g.topic_id WHERE t.name = $1::text AND g.name = $2::text),
idle AS MATERIALIZED (
  SELECT id FROM g WHERE NOT EXISTS (SELECT FROM ${s}.members m WHERE m.group_id = g.id AND m.expires_at > clock_timestamp())),
target AS MATERIALIZED (
  SELECT c.group_id, c.pid, start.at FROM idle JOIN ${s}.cursors c ON c.group_id = idle.id JOIN ${s}.partitions p ON p.id = c.pid ${startOffset(s)} ORDER BY c.pid FOR NO KEY UPDATE OF c),
moved AS (
  UPDATE ${s}.cursors c SET watermark = t.at, above = NULL, above_from = NULL, epoch = c.epoch + 1, owner = NULL, expires_at = '-infinity' FROM target t WHERE c.group_id = t.group_id AND c.pid = t.pid),
noted AS (
  UPDATE ${s}.handed h SET epoch = -1, below = t.at FROM target t WHERE h.group_id = t.group_id AND h.pid = t.pid),
started AS (
  DELETE FROM ${s}.starts USING idle WHERE group_id = idle.id)
SELECT (SELECT count(*) FROM g)::int AS found, (SELECT count(*) FROM idle)::int AS idle`,

    marks: `SELECT m.letter_id, m.mark, m.position::text FROM ${s}.marks m JOIN ${s}.topics t ON t.id = m.topic_id WHERE t.name = $1::text`,
    /** $2 as JSON. A discarded letter's row goes at once, from where kept topics stand, and its mark with it, unless that speaks of a later copy. */
    mark: `WITH t AS (
  SELECT t.id, p.id AS pid FROM ${s}.topics t JOIN ${s}.partitions p ON p.topic_id = t.id WHERE t.name = $1::text),
given AS (
  SELECT * FROM json_to_recordset($2::text::json) AS m("letterId" text, position bigint, mark text)),
freed AS (
  DELETE FROM ${s}.messages WHERE segment = -1 AND (pid, "offset") IN (SELECT t.pid, g.position FROM t, given g WHERE g.mark = 'discarded')),
unmarked AS (
  DELETE FROM ${s}.marks m USING t, given g WHERE m.topic_id = t.id AND m.letter_id = g."letterId" AND m.position <= g.position AND g.mark = 'discarded')
INSERT INTO ${s}.marks AS m (topic_id, letter_id, mark, position) SELECT t.id, g."letterId", max(g.mark), max(g.position) FROM t, given g WHERE g.mark <> 'discarded' GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (topic_id, letter_id) DO UPDATE SET mark = excluded.mark, position = greatest(m.position, excluded.position)`,

    heads: `SELECT id, next::float8 AS next FROM ${s}.partitions WHERE id = ANY ($1::text::int[])`,
    maintain: `SELECT ${s}.maintain($1::text::float8, $2::text::float8, $3::text::float8, $4::text::float8)::text AS done`,
    /** Fails where the log is gone. */
    ping: `SELECT current_setting('server_version') AS server,
  (SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = '${s}'::regnamespace AND relname ~ '^messages_[0-9]+$' AND pg_relation_size(oid) > 0)::int AS segments
WHERE '${s}.messages'::regclass IS NOT NULL`,
    notify: `SELECT pg_notify($1::text, '')`,
  }
}

/** The offset where a group begins in partition `p`. */
function startOffset(s: string): string {
  const first = `(SELECT min(m."offset") FROM ${s}.messages m WHERE m.pid = p.id AND m."offset" >= p.low)`
  return `CROSS JOIN LATERAL (SELECT coalesce(CASE $3::text
  WHEN 'earliest' THEN ${first}
  WHEN 'time' THEN (SELECT m."offset" FROM ${s}.messages m WHERE m.pid = p.id AND m."offset" >= p.low AND m.ts >= $4::text::float8 ORDER BY m."offset" LIMIT 1)
  WHEN 'positions' THEN greatest(${first}, least(p.next, coalesce(($5::text::json ->> p.partition::text)::bigint, 0)))
  END, p.next) AS at) start`
}

export type Statements = Readonly<
  Record<
    | 'publish'
    | 'publishSpecial'
    | 'moveDue'
    | 'fetch'
    | 'read'
    | 'readLog'
    | 'settle'
    | 'begin'
    | 'beat'
    | 'claim'
    | 'release'
    | 'leave'
    | 'poll'
    | 'topics'
    | 'twin'
    | 'createTopic'
    | 'deleteTopic'
    | 'group'
    | 'createGroup'
    | 'deleteGroup'
    | 'groups'
    | 'seek'
    | 'marks'
    | 'mark'
    | 'heads'
    | 'maintain'
    | 'ping'
    | 'notify',
    string
  >
>
