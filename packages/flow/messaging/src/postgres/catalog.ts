import type { TopicSpec } from '../driver.ts'
import type { Connection } from './connection.ts'
import type { Statements } from './statements.ts'

export interface TopicEntry {
  readonly name: string
  readonly spec: TopicSpec
  /** The id of each partition, which is not used again after the topic was deleted. */
  readonly pids: readonly number[]
}

/** The topics there are; what was found is remembered until `forget`. */
export interface Catalog {
  known(topic: string): TopicEntry | undefined
  /** Those of `topics` that exist are known afterwards. */
  look(topics: readonly string[], signal?: AbortSignal): Promise<void>
  /** Asks anew; nothing when there is no such topic. */
  find(topic: string): Promise<TopicEntry | undefined>
  all(): Promise<readonly TopicEntry[]>
  forget(topic: string): void
}

interface Row {
  name: string
  partitions: number
  keep: boolean
  max_age_ms: number | null
  pids: string
}

export function createCatalog(connection: Connection, sql: Statements): Catalog {
  const entries = new Map<string, TopicEntry>()

  const ask = async (topics: readonly string[] | undefined, signal?: AbortSignal): Promise<readonly TopicEntry[]> => {
    // Topic names have no character that an array literal would need quoted.
    const rows = await connection.run<Row>(sql.topics, [topics ? `{${topics.join(',')}}` : null], { signal })
    return rows.map(({ name, partitions, keep, max_age_ms, pids }) => {
      const entry = { name, spec: { partitions, keep, maxAgeMs: max_age_ms ?? undefined }, pids: JSON.parse(pids) as number[] }
      entries.set(name, entry)
      return entry
    })
  }

  return {
    known: (topic) => entries.get(topic),
    look: async (topics, signal) => void (await ask(topics, signal)),
    find: async (topic) => {
      const [entry] = await ask([topic])
      if (!entry) entries.delete(topic)
      return entry
    },
    all: () => ask(undefined),
    forget: (topic) => void entries.delete(topic),
  }
}
