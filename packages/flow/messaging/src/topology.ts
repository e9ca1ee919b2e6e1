import type { BrokerDriver, Start, TopicSpec } from './driver.ts'
import { topicNotFound } from './errors.ts'

export interface Topology {
  /** The topics among these that are not known to exist. */
  unready<T>(items: readonly T[], topicOf: (item: T) => string): readonly string[]
  /** Makes a topic that is not there (or, with `topics: 'expect'`, says so), once for all who ask at the same time. */
  ensureTopic(topic: string, spec?: Partial<TopicSpec>): Promise<TopicSpec>
  ensureGroup(topic: string, group: string, start: Start): Promise<void>
  /** Throws `RangeError` when `start` names a partition that the topic has not. */
  checkStart(topic: string, start: Start): Promise<void>
  /** True when `error` says that the topic is gone and it may be made again. */
  forgotten(topic: string, error: unknown): boolean
  forget(topic: string): void
}

/** Remembers which topics exist, so that the hot path asks nobody. */
export function createTopology(driver: BrokerDriver, mode: 'create' | 'expect', defaults: TopicSpec): Topology {
  const known = new Map<string, TopicSpec>()
  const asked = new Map<string, Promise<TopicSpec>>()
  /** What the engine's own topics are: they are made in either mode, and made again as they were. */
  const own = new Map<string, Partial<TopicSpec>>()

  const find = async (topic: string, spec: Partial<TopicSpec> | undefined): Promise<TopicSpec> => {
    const there = await driver.admin.topics(topic)
    if (there[0]) return there[0].spec
    if (mode === 'expect' && !spec) throw topicNotFound(topic)
    const wanted = { ...defaults, ...spec }
    await driver.admin.createTopic(topic, wanted)
    return wanted
  }

  const ensureTopic = (topic: string, spec?: Partial<TopicSpec>): Promise<TopicSpec> => {
    if (spec) own.set(topic, spec)
    const seen = known.get(topic)
    if (seen) return Promise.resolve(seen)
    let question = asked.get(topic)
    if (!question) {
      question = find(topic, own.get(topic)).then((found) => {
        known.set(topic, found)
        return found
      })
      asked.set(topic, question)
      const done = (): void => void asked.delete(topic)
      question.then(done, done)
    }
    return question
  }

  const forgotten = (topic: string, error: unknown): boolean => {
    const gone = typeof error === 'object' && error !== null && 'code' in error && error.code === 'ERR_MESSAGING_TOPIC_NOT_FOUND'
    if (gone) known.delete(topic)
    return gone && (mode === 'create' || own.has(topic))
  }

  /** Asks the broker: what is known may be of a topic that was made anew. */
  const checkStart = async (topic: string, start: Start): Promise<void> => {
    if (typeof start === 'string' || start instanceof Date) return
    const { partitions = Infinity } = (await driver.admin.topics(topic))[0]?.spec ?? {}
    for (const partition of start.keys())
      if (partition >= partitions) throw new RangeError(`Topic ${topic} has no partition ${partition} to start at, it has ${partitions}`)
  }

  return {
    unready: (items, topicOf) => {
      let missing: Set<string> | undefined
      let last: string | undefined
      for (const item of items) {
        const topic = topicOf(item)
        if (topic === last || known.has((last = topic))) continue
        ;(missing ??= new Set()).add(topic)
      }
      return missing ? [...missing] : []
    },
    ensureTopic,
    checkStart,
    ensureGroup: async (topic, group, start) => {
      await checkStart(topic, start)
      try {
        await driver.admin.createGroup(topic, group, start)
      } catch (error) {
        // Deleted behind our back.
        if (!forgotten(topic, error)) throw error
        await ensureTopic(topic)
        await driver.admin.createGroup(topic, group, start)
      }
    },
    forgotten,
    forget: (topic) => void known.delete(topic),
  }
}
