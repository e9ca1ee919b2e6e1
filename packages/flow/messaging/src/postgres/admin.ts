import type { LogEntry, Mark, Start, TopicAdmin, TopicLog } from '../driver.ts'
import { groupNotFound, MessagingError, topicNotFound, topicTaken } from '../errors.ts'
import { uniqueName } from '../names.ts'
import { offsetOf } from '../partition.ts'
import type { Catalog, TopicEntry } from './catalog.ts'
import type { Connection } from './connection.ts'
import { createReader, type MessageRow } from './record.ts'
import type { Statements } from './statements.ts'

/** The kind of start, its time and its positions, as the statements take them. */
function startValues(start: Start): [kind: string, time: string | null, positions: string | null] {
  if (start === 'earliest' || start === 'latest') return [start, null, null]
  if (start instanceof Date) return ['time', String(start.getTime()), null]
  return ['positions', null, JSON.stringify(Object.fromEntries([...start].map(([partition, position]) => [partition, offsetOf(position)])))]
}

export function createAdmin(connection: Connection, sql: Statements, catalog: Catalog): TopicAdmin {
  return {
    createTopic: async (topic, spec) => {
      const { partitions, keep, maxAgeMs } = spec
      const values = [topic, uniqueName(topic), String(partitions), String(keep), maxAgeMs === undefined ? null : String(maxAgeMs)]
      const made = await connection.run(sql.createTopic, values)
      if (made.length > 0) return
      const [twin] = await connection.run<{ name: string; partitions: number; keep: boolean; max_age_ms: number | null }>(sql.twin, [uniqueName(topic)])
      const taken = twin && topicTaken(topic, spec, { ...twin, maxAgeMs: twin.max_age_ms ?? undefined })
      if (taken) throw taken
    },
    deleteTopic: async (topic) => {
      await connection.run(sql.deleteTopic, [topic])
      catalog.forget(topic)
    },
    topics: async (topic) => {
      const found = topic === undefined ? await catalog.all() : [await catalog.find(topic)]
      return found.filter((entry): entry is TopicEntry => entry !== undefined).map(({ name, spec }) => ({ topic: name, spec }))
    },
    createGroup: async (topic, group, start) => {
      const made = await connection.run(sql.createGroup, [topic, group, ...startValues(start)])
      if (made.length === 0 && !(await catalog.find(topic))) throw topicNotFound(topic)
    },
    deleteGroup: async (topic, group) => void (await connection.run(sql.deleteGroup, [topic, group])),
    groups: async (topic) => {
      const rows = await connection.run<{ name: string; members: number; lag: number; oldest_at: number | null }>(sql.groups, [topic])
      if (rows.length === 0 && !(await catalog.find(topic))) throw topicNotFound(topic)
      return rows.map(({ name, members, lag, oldest_at }) => ({ group: name, members, lag, oldestAt: oldest_at ?? undefined, approximate: false }))
    },
  }
}

export function createLog(connection: Connection, sql: Statements, catalog: Catalog): TopicLog {
  const existing = async (topic: string): Promise<TopicEntry> => {
    const entry = catalog.known(topic) ?? (await catalog.find(topic))
    if (!entry) throw topicNotFound(topic)
    return entry
  }

  return {
    read: async (topic, partition, after, limit, limitBytes) => {
      const readOf = (pid: number): Promise<readonly MessageRow[]> =>
        connection.run<MessageRow>(sql.readLog, [pid, after === undefined ? 0 : offsetOf(after) + 1, limit, limitBytes].map(String))
      const known = catalog.known(topic)?.pids[partition]
      let rows = known === undefined ? [] : await readOf(known)
      if (rows.length === 0) {
        // Perhaps the topic was deleted since it was looked up, and made again.
        const { pids } = (await catalog.find(topic)) ?? fail(topicNotFound(topic))
        const pid = pids[partition] ?? fail(new RangeError(`Topic ${topic} has no partition ${partition}`))
        if (pid !== known) rows = await readOf(pid)
      }
      const read = createReader()
      return rows.map((row): LogEntry => ({ position: row.offset, message: read(row) }))
    },
    seek: async (topic, group, to) => {
      const [row] = await connection.run<{ found: number; idle: number }>(sql.seek, [topic, group, ...startValues(to)])
      if (row!.found === 0) throw (await catalog.find(topic)) ? groupNotFound(topic, group) : topicNotFound(topic)
      if (row!.idle === 0) throw new MessagingError('ERR_MESSAGING_GROUP_BUSY', `Group ${group} on ${topic} has members: close them first`, { retryable: true })
    },
    marks: async (topic) => {
      const rows = await connection.run<{ letter_id: string; mark: Mark; position: string }>(sql.marks, [topic])
      if (rows.length === 0) await existing(topic)
      return new Map(rows.map(({ letter_id, mark, position }) => [letter_id, { mark, position }]))
    },
    mark: async (topic, marks) => {
      await existing(topic)
      if (marks.length > 0) await connection.run(sql.mark, [topic, JSON.stringify(marks)])
    },
  }
}

function fail(error: Error): never {
  throw error
}
