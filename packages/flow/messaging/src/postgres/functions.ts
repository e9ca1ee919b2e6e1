/**
 * Reads walk the primary keys from the first wanted row on, and stop after the last. A planner without statistics (a segment was just truncated, or filled) may rather
 * collect all rows behind it and sort them: a backlog of a million for each read. What is forbidden counts as immensely costly before PostgreSQL 18, which would have
 * small statements compiled, for longer than they take.
 */
export const byKey = 'SET enable_sort = off SET enable_bitmapscan = off SET enable_seqscan = off SET jit = off'

/**
 * The statements of the hot path, as functions of the schema: PostgreSQL keeps their plans with the connection, which a client that sends plain text (or a pooler that forbids
 * prepared statements) could not have; planning took as long as a small batch. Each call is one statement and one transaction.
 *
 * Rows are locked in this order everywhere, so that no two calls wait for each other: cursors by (group, partition), what they handed over in the same order,
 * counters (partitions by id), a producer, digests.
 */
export function functionsSql(s: string): string {
  const columns = `segment, pid, "offset", ts, id, key, headers, value`
  const segment = (of: string): string => `CASE WHEN ${of}.keep THEN -1 ELSE (SELECT current FROM ${s}.rotation) END`
  const generic = `LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan`
  const rows = `TABLE (pid integer, "offset" text, ts double precision, id text, key text, headers text, value bytea)`
  const input = `ROWS FROM (unnest(parts), json_array_elements_text(ids), json_array_elements_text(keys), json_array_elements_text(heads), unnest(times), unnest(starts), unnest(lens)`

  return `-- How many of the offsets from low to before high are settled out of turn.
CREATE FUNCTION ${s}.settled_between(above bytea, above_from bigint, low bigint, high bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $settled$
  SELECT count(*) FROM generate_series(greatest(low, above_from), least(high, above_from + octet_length(above) * 8) - 1) o WHERE get_bit(above, o - above_from) = 1
$settled$;

-- Locks the counters until commit, so in a partition a smaller offset never commits after a larger one, whatever else the cluster does: no transaction ids are compared,
-- and neither an open transaction elsewhere nor a restored dump changes anything. Then takes the producer's number, which makes a repetition harmless: one that waited for
-- the first try sees the row as that left it (READ COMMITTED re-checks the condition). Gives NULL, or why nothing may be stored.
CREATE FUNCTION ${s}.reserve(producer text, number bigint, pids integer[]) RETURNS text ${generic} AS $reserve$
DECLARE
  found_pids integer[];
BEGIN
  found_pids := ARRAY (SELECT id FROM ${s}.partitions WHERE id = ANY (pids) ORDER BY id FOR NO KEY UPDATE);
  IF cardinality(found_pids) < cardinality(pids) THEN RETURN json_build_object('found', found_pids); END IF;
  INSERT INTO ${s}.producers AS p VALUES (producer, number, clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, seen_at = excluded.seen_at WHERE p.seq < excluded.seq;
  RETURN CASE WHEN NOT FOUND THEN '{"repeated":true}' END;
END
$reserve$;

-- parts, ids, keys, heads, times, starts and lens go row by row: bodies holds all bodies, one after the other. counts goes with pids; ranks are places among a partition's rows.
CREATE FUNCTION ${s}.publish(producer text, number bigint, pids integer[], counts integer[], parts integer[], ranks integer[], ids json, keys json, heads json,
  times double precision[], starts integer[], lens integer[], bodies bytea) RETURNS text ${generic} AS $publish$
DECLARE
  answer text := ${s}.reserve(producer, number, pids);
BEGIN
  IF answer IS NOT NULL THEN RETURN answer; END IF;
  WITH bumped AS MATERIALIZED (
    UPDATE ${s}.partitions p SET next = p.next + c.n FROM unnest(pids, counts) AS c(pid, n) WHERE p.id = c.pid RETURNING p.id, p.next - c.n AS base, p.keep),
  stored AS (
    INSERT INTO ${s}.messages (${columns})
    SELECT ${segment('b')}, r.pid, b.base + r.rank, r.ts, r.id, r.key, r.headers, substring(bodies FROM r.start FOR r.len)
    FROM ${input}, unnest(ranks)) AS r(pid, id, key, headers, ts, start, len, rank) JOIN bumped b ON b.id = r.pid)
  SELECT json_build_object('bases', json_object_agg(id, base)) INTO answer FROM bumped;
  RETURN answer;
END
$publish$;

-- As publish, for batches with delayed messages or dedupe ids, each digest once a topic. Who is a duplicate is known only here, so the places are given here:
-- kept says which rows were stored, and whether for later.
CREATE FUNCTION ${s}.publish_special(producer text, number bigint, pids integer[], parts integer[], ids json, keys json, heads json,
  times double precision[], starts integer[], lens integer[], bodies bytea, dues double precision[], digests bytea[], window_ms double precision) RETURNS text ${generic} AS $publish$
DECLARE
  answer text := ${s}.reserve(producer, number, pids);
BEGIN
  IF answer IS NOT NULL THEN RETURN answer; END IF;
  WITH input AS MATERIALIZED (
    SELECT r.*, p.topic_id FROM ${input}, unnest(dues), unnest(digests)) WITH ORDINALITY AS r(pid, id, key, headers, ts, start, len, due, digest, n)
    JOIN ${s}.partitions p ON p.id = r.pid),
  fresh AS MATERIALIZED (
    INSERT INTO ${s}.dedupe AS d SELECT topic_id, digest, clock_timestamp() + window_ms * interval '1 ms' FROM input WHERE digest IS NOT NULL ORDER BY 1, 2
    ON CONFLICT (topic_id, digest) DO UPDATE SET expires_at = excluded.expires_at WHERE d.expires_at <= clock_timestamp() RETURNING topic_id, digest),
  kept AS MATERIALIZED (
    SELECT i.* FROM input i WHERE i.digest IS NULL OR EXISTS (SELECT FROM fresh f WHERE f.topic_id = i.topic_id AND f.digest = i.digest)),
  later AS (
    INSERT INTO ${s}.delayed (due, pid, ts, id, key, headers, value)
    SELECT due, pid, ts, id, key, headers, substring(bodies FROM start FOR len) FROM kept WHERE due IS NOT NULL ORDER BY n),
  bumped AS MATERIALIZED (
    UPDATE ${s}.partitions p SET next = p.next + c.n FROM (SELECT pid, count(*) AS n FROM kept WHERE due IS NULL GROUP BY pid) c
    WHERE p.id = c.pid RETURNING p.id, p.next - c.n AS base, p.keep),
  stored AS (
    INSERT INTO ${s}.messages (${columns})
    SELECT ${segment('b')}, k.pid, b.base + row_number() OVER (PARTITION BY k.pid ORDER BY k.n) - 1, k.ts, k.id, k.key, k.headers, substring(bodies FROM k.start FOR k.len)
    FROM kept k JOIN bumped b ON b.id = k.pid WHERE k.due IS NULL)
  SELECT json_build_object('bases', (SELECT json_object_agg(id, base) FROM bumped), 'kept', (SELECT coalesce(json_agg(json_build_array(n - 1, due IS NOT NULL)), '[]') FROM kept))
  INTO answer;
  RETURN answer;
END
$publish$;

-- Moves due messages into the log. The counters first: movers and publishers take turns, and the order of the due times stands.
CREATE FUNCTION ${s}.move_due(until_ms double precision) RETURNS TABLE (pid integer, next double precision) LANGUAGE plpgsql AS $move$
#variable_conflict use_column
DECLARE
  places integer[] := ARRAY (SELECT d.pid FROM ${s}.delayed d WHERE d.due <= until_ms ORDER BY d.due, d.n LIMIT 500);
BEGIN
  PERFORM FROM ${s}.partitions WHERE id = ANY (places) ORDER BY id FOR NO KEY UPDATE;
  RETURN QUERY WITH moved AS MATERIALIZED (
    DELETE FROM ${s}.delayed WHERE (due, n) IN (SELECT due, n FROM ${s}.delayed WHERE due <= until_ms AND pid = ANY (places) ORDER BY due, n LIMIT 500) RETURNING *),
  bumped AS MATERIALIZED (
    UPDATE ${s}.partitions p SET next = p.next + c.n FROM (SELECT pid, count(*) AS n FROM moved GROUP BY pid) c
    WHERE p.id = c.pid RETURNING p.id, p.next, p.next - c.n AS base, p.keep),
  stored AS (
    INSERT INTO ${s}.messages (${columns})
    SELECT ${segment('b')}, m.pid, b.base + row_number() OVER (PARTITION BY m.pid ORDER BY m.due, m.n) - 1, m.ts, m.id, m.key, m.headers, m.value
    FROM moved m JOIN bumped b ON b.id = m.pid)
  SELECT b.id, b.next::double precision FROM bumped b;
END
$move$;

-- Before it hands anything over it notes, which only the owner of the lease can, how far that may reach at most: the rows asked for, and those to be skipped.
-- That note alone need not reach the disk (synchronous_commit is off for this one transaction): a server that crashes forgets at most which messages were suspect.
CREATE FUNCTION ${s}.fetch(of_group integer, of_member text, pids integer[], epochs bigint[], froms bigint[], limits integer[])
RETURNS ${rows} ${generic} ${byKey} AS $fetch$
#variable_conflict use_column
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  RETURN QUERY WITH cur AS MATERIALIZED (
    SELECT c.pid, c.epoch, greatest(c.watermark, w.from_offset) AS from_offset, c.above, c.above_from, coalesce(octet_length(c.above), 0) * 8 AS bits, w.n
    FROM unnest(pids, epochs, froms, limits) AS w(pid, epoch, from_offset, n)
    JOIN ${s}.cursors c ON c.group_id = of_group AND c.pid = w.pid AND c.epoch = w.epoch AND c.owner = of_member AND c.expires_at > clock_timestamp()),
  reach AS MATERIALIZED (
    SELECT cur.pid, cur.epoch, least(p.next, cur.from_offset + cur.n + greatest(0, cur.above_from + cur.bits - cur.from_offset)) AS below FROM cur JOIN ${s}.partitions p ON p.id = cur.pid),
  locked AS MATERIALIZED (
    SELECT h.pid, r.below FROM reach r JOIN ${s}.handed h ON h.group_id = of_group AND h.pid = r.pid AND h.epoch = r.epoch AND h.below < r.below
    ORDER BY h.pid FOR NO KEY UPDATE OF h),
  noted AS (
    UPDATE ${s}.handed h SET below = l.below FROM locked l WHERE h.group_id = of_group AND h.pid = l.pid)
  SELECT m.pid, m."offset"::text, m.ts, m.id, m.key, m.headers, m.value FROM cur CROSS JOIN LATERAL (
    SELECT * FROM ${s}.messages m WHERE m.pid = cur.pid AND m."offset" >= cur.from_offset
      AND CASE WHEN m."offset" >= cur.above_from AND m."offset" < cur.above_from + cur.bits THEN get_bit(cur.above, m."offset" - cur.above_from) = 0 ELSE true END
    ORDER BY m."offset" LIMIT cur.n) m;
END
$fetch$;

-- For who reads without a group.
CREATE FUNCTION ${s}.read(pids integer[], froms bigint[], limits integer[]) RETURNS ${rows} ${generic} ${byKey} AS $read$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT m.pid, m."offset"::text, m.ts, m.id, m.key, m.headers, m.value FROM unnest(pids, froms, limits) AS w(pid, from_offset, n)
  JOIN ${s}.partitions p ON p.id = w.pid
  CROSS JOIN LATERAL (SELECT * FROM ${s}.messages m WHERE m.pid = w.pid AND m."offset" >= greatest(w.from_offset, p.low) ORDER BY m."offset" LIMIT w.n) m;
END
$read$;

-- A page of a log: up to the weight given, and always the first. octet_length() of what is stored beside the row asks its pointer: what the page leaves out is not read.
CREATE FUNCTION ${s}.read_log(of_pid integer, from_offset bigint, most integer, most_bytes double precision) RETURNS ${rows} ${generic} ${byKey} AS $read$
#variable_conflict use_column
DECLARE
  begins bigint;
BEGIN
  SELECT greatest(from_offset, low) INTO begins FROM ${s}.partitions WHERE id = of_pid;
  IF NOT FOUND THEN RETURN; END IF;
  RETURN QUERY SELECT m.pid, m."offset"::text, m.ts, m.id, m.key, m.headers, m.value FROM (
    SELECT l.*, count(*) OVER up_to_here AS n, sum(coalesce(octet_length(l.value), 0) + coalesce(octet_length(l.headers), 0) + coalesce(octet_length(l.key), 0)) OVER up_to_here AS bytes
    FROM (SELECT * FROM ${s}.messages WHERE pid = of_pid AND "offset" >= begins ORDER BY "offset" LIMIT most) l
    WINDOW up_to_here AS (ORDER BY l."offset" ROWS UNBOUNDED PRECEDING)) m
  WHERE m.n = 1 OR m.bytes <= most_bytes;
END
$read$;

-- progress: pid, epoch, number, watermark (or NULL), above and above_from (or NULL). Gives the partitions that were settled: those whose lease is still the member's. What comes
-- after a later one of this owner, which had all of it and more, is left out.
CREATE FUNCTION ${s}.settle(of_group integer, of_member text, progress json) RETURNS integer[] ${generic} AS $settle$
#variable_conflict use_column
DECLARE
  settled integer[];
BEGIN
  WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(progress) AS p(pid integer, epoch bigint, number bigint, watermark bigint, above bytea, above_from bigint)),
  locked AS MATERIALIZED (
    SELECT c.pid, c.epoch FROM ${s}.cursors c JOIN given g ON g.pid = c.pid AND g.epoch = c.epoch
    WHERE c.group_id = of_group AND c.owner = of_member AND c.expires_at > clock_timestamp() ORDER BY c.pid FOR NO KEY UPDATE OF c),
  moved AS (
    UPDATE ${s}.cursors c SET watermark = greatest(c.watermark, g.watermark), above = g.above, above_from = g.above_from, settlement = g.number
    FROM given g JOIN locked l ON l.pid = g.pid AND l.epoch = g.epoch
    WHERE c.group_id = of_group AND c.pid = g.pid AND c.settlement < g.number RETURNING c.pid, c.watermark),
  started AS (
    DELETE FROM ${s}.starts t USING moved m WHERE t.group_id = of_group AND t.pid = m.pid AND t."offset" < m.watermark)
  SELECT array_agg(pid) INTO settled FROM locked;
  RETURN settled;
END
$settle$;`
}
