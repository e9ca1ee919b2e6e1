import { checkOptions } from '#internal/options'
import { pageBytes } from './dead-letters.ts'
import type { BrokerDriver, Capabilities, GroupInfo, Start, StoredMessage } from './driver.ts'
import { groupNotFound, unsupported } from './errors.ts'
import { checkGroup, checkTopic, retryTopic } from './names.ts'
import { groupChecks, peekChecks, resetChecks, topicChecks } from './options.ts'
import type { Topology } from './topology.ts'

/** What a topic is made with. */
export interface TopicOptions {
  partitions?: number | undefined
  /** Groups made with it, so that they miss nothing. */
  groups?: readonly string[] | undefined
  /** `maxAgeMs`: removed at this age even when unread, and counted. Without it a message stays until every group has passed it. */
  retention?: { maxAgeMs: number } | undefined
}

/** Which messages to look at. */
export interface PeekOptions {
  /** @default 0 */
  partition?: number | undefined
  /** After this position; from the oldest when absent. */
  after?: string | undefined
  /** @default 50 */
  limit?: number | undefined
}

/** A message as it stands in the log, and where. */
export interface Peeked extends StoredMessage {
  readonly partition: number
  readonly position: string
}

/** Topics and groups: all idempotent, and safe when several processes do the same at once. */
export interface Administration<C extends Capabilities = Capabilities> {
  /** Throws `ERR_MESSAGING_TOPOLOGY_MISMATCH` when it is there with other partitions, or another retention than is asked for. */
  createTopic(topic: string, options?: TopicOptions): Promise<void>
  deleteTopic(topic: string): Promise<void>
  topicExists(topic: string): Promise<boolean>
  listTopics(): Promise<readonly string[]>
  createGroup(topic: string, group: string, options?: { start?: Start }): Promise<void>
  deleteGroup(topic: string, group: string): Promise<void>
  listGroups(topic: string): Promise<readonly string[]>
  /**
   * Messages of the topic that the group has not settled, delayed ones and those in its private source included. `oldestAt`: since when
   * the first of them that is due could have been handled, the oldest of all partitions; on PostgreSQL its timestamp, which for one that was delayed or
   * replayed is earlier. `undefined` where there is none, or the broker only estimates.
   */
  lag(
    topic: string,
    group: string,
  ): Promise<{ readonly messages: number; readonly members: number; readonly oldestAt: number | undefined; readonly approximate: boolean }>
  /** Reads without consuming; needs `history`. */
  peek: C extends { history: false } ? never : (topic: string, options?: PeekOptions) => Promise<readonly Peeked[]>
  /** Moves a group that has no members; needs `history`. */
  resetGroup: C extends { history: false } ? never : (topic: string, group: string, options: { to: Start }) => Promise<void>
}

export interface AdministrationDeps {
  readonly partitions: number
  readonly reserved: readonly string[]
  readonly assertOpen: () => void
  readonly startOf: (start: Start | undefined) => Start
}

export function createAdministration(
  driver: BrokerDriver,
  topology: Topology,
  { partitions, reserved, assertOpen, startOf }: AdministrationDeps,
): Administration {
  const groupInfo = async (topic: string, group: string): Promise<GroupInfo | undefined> => {
    const found = await driver.admin.groups(topic).catch((error: unknown) => {
      if (topic.endsWith('.retry') && (error as { code?: string }).code === 'ERR_MESSAGING_TOPIC_NOT_FOUND') return []
      throw error
    })
    return found.find((one) => one.group === group)
  }

  /** A topic and what its groups made beside it. */
  const ownTopics = async (topic: string): Promise<string[]> => {
    const all = (await driver.admin.topics()).map((one) => one.topic)
    const beside = reserved.map((end) => ({ start: `${topic}.`, end }))
    return all.filter(
      (name) =>
        name === topic || beside.some(({ start, end }) => name.startsWith(start) && name.endsWith(end) && !name.slice(start.length, -end.length).includes('.')),
    )
  }

  const check = (topic: string, ...groups: readonly string[]): void => {
    assertOpen()
    checkTopic(topic, reserved)
    groups.forEach(checkGroup)
  }

  const needsHistory = (what: string): void => {
    if (!driver.capabilities.history) throw unsupported(what, driver.name)
  }

  return {
    createTopic: async (topic, options = {}) => {
      check(topic)
      checkOptions('createTopic', options, topicChecks)
      const { groups = [], retention } = options
      groups.forEach(checkGroup)
      // Who does not say how many takes what is there.
      const n = options.partitions ?? (await driver.admin.topics(topic))[0]?.spec.partitions ?? partitions
      await driver.admin.createTopic(topic, { partitions: n, keep: false, maxAgeMs: retention?.maxAgeMs })
      topology.forget(topic)
      for (const group of groups) await driver.admin.createGroup(topic, group, startOf(undefined))
    },
    deleteTopic: async (topic) => {
      check(topic)
      for (const name of await ownTopics(topic)) {
        await driver.admin.deleteTopic(name)
        topology.forget(name)
      }
    },
    topicExists: async (topic) => {
      check(topic)
      return (await driver.admin.topics(topic)).length > 0
    },
    listTopics: async () => {
      assertOpen()
      return (await driver.admin.topics()).map((one) => one.topic).filter((topic) => !reserved.some((end) => topic.endsWith(end)))
    },
    createGroup: async (topic, group, options = {}) => {
      check(topic, group)
      checkOptions('createGroup', options, groupChecks)
      await topology.ensureTopic(topic)
      await topology.ensureGroup(topic, group, startOf(options.start))
    },
    deleteGroup: async (topic, group) => {
      check(topic, group)
      await driver.admin.deleteGroup(topic, group)
      await driver.admin.deleteTopic(retryTopic(topic, group))
      topology.forget(retryTopic(topic, group))
    },
    listGroups: async (topic) => {
      check(topic)
      return (await driver.admin.groups(topic)).map((one) => one.group)
    },
    lag: async (topic, group) => {
      check(topic, group)
      const infos = [await groupInfo(topic, group), await groupInfo(retryTopic(topic, group), group)]
      if (!infos[0]) throw groupNotFound(topic, group)
      return {
        messages: infos.reduce((sum, info) => sum + (info?.lag ?? 0), 0),
        members: infos[0].members,
        oldestAt: oldestOf(infos.map((info) => info?.oldestAt)),
        approximate: infos.some((info) => info?.approximate),
      }
    },
    peek: async (topic, options = {}) => {
      check(topic)
      checkOptions('peek', options, peekChecks)
      const { partition = 0, after, limit = 50 } = options
      needsHistory('peek')
      const found: Peeked[] = []
      for (let from = after; found.length < limit; from = found.at(-1)!.position) {
        const page = await driver.log.read(topic, partition, from, limit - found.length, pageBytes)
        if (page.length === 0) break
        for (const { position, message } of page) found.push({ ...message, partition, position })
      }
      return found
    },
    resetGroup: async (topic, group, options) => {
      check(topic, group)
      checkOptions('resetGroup', options, resetChecks, ['to'])
      needsHistory('resetGroup')
      await topology.checkStart(topic, options.to)
      await driver.log.seek(topic, group, options.to)
    },
  }
}

/** The smallest of those that are there. */
export function oldestOf(times: readonly (number | undefined)[]): number | undefined {
  return times.reduce((oldest, at) => (oldest === undefined || (at !== undefined && at < oldest) ? at : oldest), undefined)
}
