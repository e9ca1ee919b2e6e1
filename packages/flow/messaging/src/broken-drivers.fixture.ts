import type { Clock } from '#internal/clock'
import type { BrokerDriver, Consumption, LetterMark, OutgoingMessage, PublishResult, TopicLog } from './driver.ts'

/** A driver that breaks one promise, and the case that must find out. */
export interface BrokenDriver {
  readonly does: string
  readonly caughtBy: string
  /** Something around a driver that keeps its promises; called for each client. */
  breaks(driver: BrokerDriver, parts: { clock: Clock; refused: ReadonlySet<string> }): BrokerDriver
}

type Publish = BrokerDriver['publish']
type Breaks = BrokenDriver['breaks']

const publishing =
  (change: (publish: Publish, parts: Parameters<Breaks>[1]) => Publish): Breaks =>
  (driver, parts) => ({ ...driver, publish: change(driver.publish, parts) })

const consuming =
  (change: (consumption: Consumption) => Partial<Consumption>): Breaks =>
  (driver) => ({
    ...driver,
    consume: async (topic, group, owner) => {
      const consumption = await driver.consume(topic, group, owner)
      return group === undefined ? consumption : { ...consumption, ...change(consumption) }
    },
  })

/** Of the user's topics, not of what the engine makes beside them. */
const ours = ({ topic }: OutgoingMessage): boolean => !topic.endsWith('.retry') && !topic.endsWith('.dlq')

/** Answers for all, stores some. */
const only = (keep: (message: OutgoingMessage, i: number) => boolean): Breaks => {
  let count = 0
  return publishing((publish) => async (messages, options) => {
    const kept = new Set(messages.filter((message) => keep(message, ++count)))
    const results = [...(await publish([...kept], options))]
    return messages.map((message): PublishResult => (kept.has(message) ? results.shift()! : { status: 'stored' }))
  })
}

let privates = 0

export const brokenDrivers: readonly BrokenDriver[] = [
  { does: 'drops a message now and then', caughtBy: 'what fifty publishers send at once all comes, once', breaks: only((_message, i) => i % 20 !== 0) },
  {
    does: 'stores a message twice now and then',
    caughtBy: 'what fifty publishers send at once all comes, once',
    breaks: publishing((publish) => async (messages, options) => {
      const [first] = messages
      if (first && ours(first)) await publish([first], options)
      return publish(messages, options)
    }),
  },
  {
    does: 'swaps neighbours of a batch',
    caughtBy: 'a batch keeps the order of its keys, is split where it must be, and has a result for each message',
    breaks: publishing((publish) => async (messages, options) => [...(await publish([...messages].reverse(), options))].reverse()),
  },
  {
    does: 'forgets headers',
    caughtBy: 'body, key, headers, id and time come as they were published',
    breaks: publishing(
      (publish) => (messages, options) =>
        publish(
          messages.map((m) => ({ ...m, headers: {} })),
          options,
        ),
    ),
  },
  {
    does: 'mangles what it cannot encode in a header',
    caughtBy: 'strange header values come equal or are refused, never mangled',
    breaks: publishing((publish) => (messages, options) => {
      const latin = (text: string): string => Buffer.from(text, 'latin1').toString('latin1')
      return publish(
        messages.map((m) => ({ ...m, headers: Object.fromEntries(Object.entries(m.headers).map(([name, value]) => [name, latin(value)])) })),
        options,
      )
    }),
  },
  {
    does: 'takes a tombstone for an empty body',
    caughtBy: 'binary, empty and absent bodies are three different things',
    breaks: publishing(
      (publish) => (messages, options) =>
        publish(
          messages.map((m) => ({ ...m, tombstone: false })),
          options,
        ),
    ),
  },
  {
    does: 'says stored when there is no such topic',
    caughtBy: 'a driver answers each message of a call for itself: what is refused leaves the others stored',
    breaks: publishing(
      (publish) => async (messages, options) =>
        (await publish(messages, options)).map((result): PublishResult => (result.status === 'rejected' ? { status: 'stored' } : result)),
    ),
  },
  {
    does: 'stores what stands behind a refused message of its key',
    caughtBy: 'after the broker refused a message of a key, no later one of that key in the batch is stored',
    breaks: publishing((publish, { refused }) => async (messages, options) => {
      const passed = messages.filter(({ id }) => !refused.has(id))
      const results = [...(await publish(passed, options))]
      return messages.map((message): PublishResult => (passed.includes(message) ? results.shift()! : { status: 'rejected', error: new Error('refused') }))
    }),
  },
  {
    does: 'answers before it has stored',
    caughtBy: 'what was confirmed is there when its publisher is gone at once',
    breaks: publishing((publish, { clock }) => async (messages, options) => {
      if (!messages.every(ours)) return publish(messages, options)
      void clock
        .sleep(5)
        .then(() => publish(messages, options))
        .catch(() => undefined)
      return messages.map(() => ({ status: 'stored' as const }))
    }),
  },
  {
    does: 'forgets dedupeIds',
    caughtBy: 'a dedupeId is stored once a topic, and the second answer says so; an id alone deduplicates nothing',
    breaks: publishing(
      (publish) => (messages, options) =>
        publish(
          messages.map((m) => ({ ...m, dedupeId: undefined })),
          options,
        ),
    ),
  },
  {
    does: 'puts every key into one partition',
    caughtBy: "a key's partition is Kafka's, keyless messages spread, and the answer says where each stands",
    breaks: publishing(
      (publish) => (messages, options) =>
        publish(
          messages.map((m) => ({ ...m, key: m.key && 'one' })),
          options,
        ),
    ),
  },
  {
    does: 'settles what it hands over before it is done',
    caughtBy: 'after a crash the repeated ones are at most what was in flight and what was done since the last flush, and nothing is lost',
    breaks: consuming((consumption) => ({
      fetch: async (wants, options) => {
        const deliveries = await consumption.fetch(wants, options)
        await consumption.settle(deliveries.map((watermark) => ({ partition: watermark.partition, epoch: watermark.epoch, watermark, above: [], settled: [] })))
        return deliveries
      },
    })),
  },
  {
    does: 'never hands out again what a lost member held',
    caughtBy: 'after a crash the repeated ones are at most what was in flight and what was done since the last flush, and nothing is lost',
    breaks: consuming((consumption) => ({
      fetch: async (wants, options) => {
        for (;;) {
          const deliveries = (await consumption.fetch(wants, options)).filter(({ suspect }) => !suspect)
          if (deliveries.length > 0 || options.signal.aborted) return deliveries
        }
      },
    })),
  },
  {
    does: 'forgets what is done beyond the watermark',
    caughtBy: 'progress never passes an unfinished message, and what is done beyond it does not come again',
    breaks: consuming((consumption) => ({ settle: (progress) => consumption.settle(progress.map((one) => ({ ...one, above: [] }))) })),
  },
  {
    does: 'hands over more than was asked for',
    caughtBy: 'a slow handler holds no more than prefetch in the process',
    breaks: consuming((consumption) => ({
      fetch: (wants, options) => consumption.fetch(new Map([...wants].map(([partition, n]) => [partition, n * 10])), options),
    })),
  },
  {
    does: 'counts no starts',
    caughtBy: 'a message that ends its process is a dead letter after maxCrashes, and its neighbours are not',
    breaks: consuming(() => ({ begin: async () => 1 })),
  },
  {
    does: 'hands over delayed messages at once',
    caughtBy: 'a delayed message comes neither early nor later than the declared resolution and 250 ms',
    breaks: publishing(
      (publish) => (messages, options) =>
        publish(
          messages.map((m) => ({ ...m, deliverAt: undefined })),
          options,
        ),
    ),
  },
  {
    does: 'keeps delayed messages in the process alone',
    caughtBy: 'delays survive the restart of everybody, and fire once, in the order of their times',
    breaks: (driver, { clock }) => {
      let open = true
      return {
        ...driver,
        publish: async (messages, options) => {
          const later = messages.filter(({ deliverAt }) => deliverAt !== undefined)
          for (const message of later)
            void clock.sleep(message.deliverAt! - clock.now()).then(() => (open ? driver.publish([{ ...message, deliverAt: undefined }], options) : undefined))
          const results = [
            ...(await driver.publish(
              messages.filter((message) => !later.includes(message)),
              options,
            )),
          ]
          return messages.map((message): PublishResult => (later.includes(message) ? { status: 'stored' } : results.shift()!))
        },
        close: async () => {
          open = false
          await driver.close()
        },
      }
    },
  },
  {
    does: 'gives a partition to two members at once',
    caughtBy: 'a partition has one owner at a time, whoever comes and goes',
    breaks: (driver) => ({
      ...driver,
      consume: async (topic, group, owner) => {
        const own = `${group}-${++privates}`
        if (group !== undefined) await driver.admin.createGroup(topic, own, 'earliest')
        return driver.consume(topic, group === undefined ? group : own, owner)
      },
    }),
  },
  {
    does: 'keeps a partition when its member closes',
    caughtBy: 'a member that closes hands over cleanly: others go on, nothing is repeated, nobody is suspected',
    breaks: consuming(() => ({ release: async () => undefined, close: async () => undefined })),
  },
  {
    does: 'takes settlements of an epoch that is over',
    caughtBy: 'a settlement of an epoch that is over is refused and changes nothing, and its epoch never comes again',
    breaks: (() => {
      const newest = new Map<string, { readonly epoch: number; readonly consumption: Promise<Consumption> }>()
      return (driver) => ({
        ...driver,
        consume: async (topic, group, owner) => {
          const of = (partition: number): string => `${topic} ${group} ${partition}`
          const consuming: Promise<Consumption> = driver.consume(topic, group, {
            ...owner,
            assigned: (partition, epoch) => {
              newest.set(of(partition), { epoch, consumption: Promise.resolve().then(() => consuming) })
              owner.assigned(partition, epoch)
            },
          })
          const settle: Consumption['settle'] = async (progress) => {
            for (const one of progress) {
              const now = newest.get(of(one.partition))!
              await (await now.consumption).settle([{ ...one, epoch: now.epoch }])
            }
            return progress.map(() => 'settled')
          }
          return { ...(await consuming), settle }
        },
      })
    })(),
  },
  {
    does: 'begins every group at the end',
    caughtBy: "a new group begins where it is told: 'earliest', 'latest', a time, a position; one that is there stays where it stands",
    breaks: (driver) => ({ ...driver, admin: { ...driver.admin, createGroup: (topic, group) => driver.admin.createGroup(topic, group, 'latest') } }),
  },
  {
    does: 'lets a topic be made anew with other partitions',
    caughtBy: 'a topic made again with other partitions, or with . for _, is ERR_MESSAGING_TOPOLOGY_MISMATCH',
    breaks: (driver) => ({ ...driver, admin: { ...driver.admin, createTopic: (topic, spec) => driver.admin.createTopic(topic, spec).catch(() => undefined) } }),
  },
  {
    does: 'says that nothing lags',
    caughtBy: 'lag is what a group has not done: delayed ones and its retries too, and of others nothing',
    breaks: (driver) => ({
      ...driver,
      admin: { ...driver.admin, groups: async (topic) => (await driver.admin.groups(topic)).map((group) => ({ ...group, lag: 0 })) },
    }),
  },
  {
    does: 'moves a group under its members',
    caughtBy: 'resetGroup moves a group that nobody reads for, and is ERR_MESSAGING_GROUP_BUSY while somebody does',
    breaks: (driver) => ({ ...driver, log: { ...driver.log, seek: (topic, group, to) => driver.log.seek(topic, group, to).catch(() => undefined) } }),
  },
  {
    does: 'goes on after close',
    caughtBy: 'after close everything is ERR_MESSAGING_CLOSED, and closing twice is fine',
    breaks: (driver) => ({ ...driver, close: async () => undefined }),
  },
  {
    does: 'forgets which letters were replayed',
    caughtBy: 'a replay goes to its group alone, with id, key, bytes and headers, and is marked',
    breaks: (driver) => ({ ...driver, log: { ...driver.log, mark: async () => undefined } }),
  },
  {
    does: 'takes marks back',
    caughtBy: 'a mark speaks of the latest position given for its letter, whoever comes later with an earlier one',
    breaks: (driver) => {
      const last = new Map<string, LetterMark>()
      return {
        ...driver,
        log: {
          ...driver.log,
          mark: async (_topic, marks) => marks.forEach((mark) => void last.set(mark.letterId, mark)),
          marks: async () => last,
        },
      }
    },
  },
  {
    does: 'reads marks once',
    caughtBy: 'two replays at once: what one has sent the other does not send again, though it had chosen it',
    breaks: (driver) => {
      const read = new Map<string, ReturnType<TopicLog['marks']>>()
      return {
        ...driver,
        log: {
          ...driver.log,
          marks: (topic) => {
            if (!read.has(topic))
              read.set(
                topic,
                driver.log.marks(topic).then((marks) => new Map(marks)),
              )
            return read.get(topic)!
          },
        },
      }
    },
  },
  {
    does: 'reads letters from the beginning whatever page is asked for',
    caughtBy: 'letters are read page by page, filtered, with a budget, and reading consumes nothing',
    breaks: (driver) => {
      const pages = new Set<string>()
      return {
        ...driver,
        log: {
          ...driver.log,
          read: async (topic, partition, after, ...most) => {
            const again = `${topic} ${after}`
            if (after !== undefined && pages.has(again)) return []
            pages.add(again)
            return driver.log.read(topic, partition, undefined, ...most)
          },
        },
      }
    },
  },
  {
    does: 'reads letters whatever they weigh',
    caughtBy: 'a log is read in pages of so many messages and bytes at most, but never of none while there is one',
    breaks: (driver) => ({
      ...driver,
      log: { ...driver.log, read: (topic, partition, after, limit) => driver.log.read(topic, partition, after, limit, Infinity) },
    }),
  },
  {
    does: 'never gives a letter that weighs more than a page may',
    caughtBy: 'a log is read in pages of so many messages and bytes at most, but never of none while there is one',
    breaks: (driver) => ({
      ...driver,
      log: {
        ...driver.log,
        read: async (topic, partition, after, limit, limitBytes) => {
          const page = await driver.log.read(topic, partition, after, limit, limitBytes)
          return page.filter(({ message }) => message.value.length <= limitBytes)
        },
      },
    }),
  },
  {
    does: 'answers a ping when it is not connected',
    caughtBy: 'health is ok, changes nothing, and is down when the broker cannot be reached',
    breaks: (driver) => ({ ...driver, ping: async () => ({}) }),
  },
]
