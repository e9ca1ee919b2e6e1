import { byKey } from './functions.ts'

/**
 * How storage is freed without deleting row by row. The rules:
 *
 * 1. `messages` has a ring of four segments and, beside it, `messages_kept`; each is a table. Publishers insert into the segment that `rotation.current` names when their
 *    statement starts; readers read all five as one, by primary key. Nothing else depends on which table a message is in.
 * 2. A message is needed by a group until the group's watermark has passed it; in a topic without groups until `partitions.low` has. (View `floors`.)
 * 3. A segment that is not current, and whose messages nobody needs, is truncated: no dead rows, no vacuum, the file is gone. That nobody needs them is judged under the
 *    table's exclusive lock, with all that was committed before it visible; so a publisher that was slow, or saw an old `current`, loses nothing. Readers wait at most
 *    `lock_timeout` for it; under load it is tried again at the next turn. The segment before the current one waits a grace, for listeners without a group.
 * 4. When the current segment is large or old, the next one becomes current, if it is empty. If it is not, some group lags or some topic has no group yet: what is still
 *    needed there moves to `messages_kept`, a chunk a turn (one UPDATE of `segment`: a reader sees each message in one of the two), until rule 3 frees it.
 *    So a message is written twice at most, and one forgotten group holds its own messages and nobody else's.
 * 5. In `messages_kept` rows are deleted once nobody needs them. Topics with `keep` live there alone; their rows go when they are discarded.
 * 6. Topics with `maxAgeMs`: at each turn the head is noted with the time (`ages`); what stood before a note that is older than `maxAgeMs` is no longer needed: groups
 *    that stand before it are moved past it, and what they had not read is counted and told.
 */
export const segments: readonly number[] = [0, 1, 2, 3]

/** The view and the function behind these rules. `maintain` is one turn; it gives NULL when another process had its turn just now. */
export function rotationSql(s: string): string {
  return `CREATE VIEW ${s}.floors AS
  SELECT p.id AS pid, coalesce((SELECT min(c.watermark) FROM ${s}.cursors c WHERE c.pid = p.id), p.low) AS needed_from FROM ${s}.partitions p;

CREATE FUNCTION ${s}.maintain(every_ms double precision, segment_bytes double precision, segment_age_ms double precision, grace_ms double precision) RETURNS json
LANGUAGE plpgsql ${byKey} AS $maintain$
DECLARE
  turn ${s}.rotation;
  removed json;
  moved integer := 0;
  deleted integer;
  next_segment smallint;
  used bigint;
  leaf text;
  n smallint;
  needed boolean;
BEGIN
  SELECT * INTO turn FROM ${s}.rotation WHERE maintained_at <= clock_timestamp() - every_ms * interval '1 ms' FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN NULL; END IF;

  -- Rule 6.
  INSERT INTO ${s}.ages (pid, below, at)
    SELECT p.id, p.next, clock_timestamp() FROM ${s}.partitions p JOIN ${s}.topics t ON t.id = p.topic_id
    WHERE t.max_age_ms IS NOT NULL AND p.next > p.low
      AND NOT EXISTS (SELECT FROM ${s}.ages a WHERE a.pid = p.id AND (a.below = p.next OR a.at > clock_timestamp() - t.max_age_ms / 20 * interval '1 ms'));
  WITH cuts AS MATERIALIZED (
    SELECT p.id AS pid, max(a.below) AS below FROM ${s}.ages a JOIN ${s}.partitions p ON p.id = a.pid JOIN ${s}.topics t ON t.id = p.topic_id
    WHERE a.at <= clock_timestamp() - t.max_age_ms * interval '1 ms' GROUP BY p.id),
  behind AS MATERIALIZED (
    SELECT c.group_id, c.pid, c.watermark, c.above, c.above_from, cuts.below FROM ${s}.cursors c JOIN cuts ON cuts.pid = c.pid AND c.watermark < cuts.below
    ORDER BY c.group_id, c.pid FOR NO KEY UPDATE OF c),
  passed AS (
    UPDATE ${s}.cursors c SET watermark = b.below FROM behind b WHERE c.group_id = b.group_id AND c.pid = b.pid),
  lower AS MATERIALIZED (
    SELECT p.id, cuts.below FROM ${s}.partitions p JOIN cuts ON cuts.pid = p.id AND p.low < cuts.below ORDER BY p.id FOR NO KEY UPDATE OF p),
  lowered AS (
    UPDATE ${s}.partitions p SET low = l.below FROM lower l WHERE p.id = l.id),
  forgotten AS (
    DELETE FROM ${s}.ages a USING cuts WHERE a.pid = cuts.pid AND a.below <= cuts.below)
  SELECT json_agg(u) INTO removed FROM (
    SELECT t.name AS topic, sum(b.below - b.watermark - ${s}.settled_between(b.above, b.above_from, b.watermark, b.below)) AS count
    FROM behind b JOIN ${s}.partitions p ON p.id = b.pid JOIN ${s}.topics t ON t.id = p.topic_id GROUP BY t.name) u;

  -- Rule 4.
  used := pg_relation_size(format('${s}.messages_%s', turn.current)::regclass);
  IF used >= segment_bytes OR (used > 0 AND turn.since <= clock_timestamp() - segment_age_ms * interval '1 ms') THEN
    next_segment := (turn.current + 1) % ${segments.length};
    leaf := format('${s}.messages_%s', next_segment);
    IF pg_relation_size(leaf::regclass) = 0 THEN
      UPDATE ${s}.rotation SET current = next_segment, since = clock_timestamp() RETURNING * INTO turn;
    ELSE
      EXECUTE format('UPDATE ${s}.messages SET segment = -1 WHERE segment = %1$s AND (pid, "offset") IN (
        SELECT m.pid, m."offset" FROM ${s}.floors f CROSS JOIN LATERAL (
          SELECT pid, "offset" FROM %2$s WHERE pid = f.pid AND "offset" >= f.needed_from ORDER BY "offset" LIMIT 2000) m LIMIT 2000)', next_segment, leaf);
      GET DIAGNOSTICS moved = ROW_COUNT;
    END IF;
  END IF;

  -- Rule 5.
  DELETE FROM ${s}.messages WHERE segment = -1 AND (pid, "offset") IN (
    SELECT m.pid, m."offset" FROM ${s}.floors f CROSS JOIN LATERAL (
      SELECT pid, "offset" FROM ${s}.messages_kept WHERE pid = f.pid AND "offset" < f.needed_from ORDER BY "offset" LIMIT 2000) m LIMIT 2000);
  GET DIAGNOSTICS deleted = ROW_COUNT;

  DELETE FROM ${s}.producers WHERE seen_at < clock_timestamp() - interval '1 day';
  DELETE FROM ${s}.members WHERE expires_at < clock_timestamp() - interval '1 hour';
  DELETE FROM ${s}.dedupe WHERE expires_at < clock_timestamp();
  UPDATE ${s}.rotation SET maintained_at = CASE WHEN moved > 0 OR deleted = 2000 THEN '-infinity' ELSE clock_timestamp() END;

  -- Rule 3, last: its locks are held to the end of this statement.
  PERFORM set_config('lock_timeout', '100', true);
  FOREACH n IN ARRAY '{${segments.join(',')}}'::smallint[] LOOP
    leaf := format('${s}.messages_%s', n);
    CONTINUE WHEN n = turn.current OR pg_relation_size(leaf::regclass) = 0
      OR (n = (turn.current + ${segments.length - 1}) % ${segments.length} AND turn.since > clock_timestamp() - grace_ms * interval '1 ms');
    EXECUTE format('SELECT EXISTS (SELECT FROM ${s}.floors f WHERE (SELECT max("offset") FROM %s WHERE pid = f.pid) >= f.needed_from)', leaf) INTO needed;
    CONTINUE WHEN needed;
    BEGIN
      EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', leaf);
      EXECUTE format('SELECT EXISTS (SELECT FROM ${s}.floors f WHERE (SELECT max("offset") FROM %s WHERE pid = f.pid) >= f.needed_from)', leaf) INTO needed;
      IF NOT needed THEN EXECUTE format('TRUNCATE TABLE %s', leaf); END IF;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN NULL;
    END;
  END LOOP;
  RETURN json_build_object('again', moved > 0 OR deleted = 2000, 'removed', coalesce(removed, '[]'));
END
$maintain$;`
}
