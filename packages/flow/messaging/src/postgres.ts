import type { Clock } from '#internal/clock'
import { systemClock } from '#internal/clock'
import { type Checks, checkOptions, having, integer, isBoolean, isClock, isFunction, isString, milliseconds, number, oneOf } from '#internal/options'
import type { SqlClient } from '#internal/sql'
import { errorText } from '#internal/thrown'
import { uuidv7 } from '#internal/uuid'
import type { BrokerDriver, Capabilities, Consumption, Ownership } from './driver.ts'
import { closedError, groupNotFound, topicNotFound } from './errors.ts'
import { createAdmin, createLog } from './postgres/admin.ts'
import { createCatalog } from './postgres/catalog.ts'
import { createConnection } from './postgres/connection.ts'
import { joinGroup, listenOnly } from './postgres/consume.ts'
import { createHeads } from './postgres/heads.ts'
import { createBeats } from './postgres/lease-store.ts'
import { createMaintenance } from './postgres/maintenance.ts'
import { createPublish } from './postgres/publish.ts'
import { createSetup } from './postgres/schema.ts'
import { statements } from './postgres/statements.ts'
import { createNotifier, type Listen } from './postgres/wake.ts'

export { schema } from './postgres/schema.ts'
export type { Listen } from './postgres/wake.ts'
export type { SqlClient } from '#internal/sql'

/** The client, and what may be tuned. */
export interface PostgresDriverOptions {
  /** `pg.Pool`, PGlite, anything with `query(text, values)`; each statement may use another connection. Yours to close. */
  client: SqlClient
  /** Where the tables stand. @default 'messaging' */
  schema?: string | undefined
  /** `expect`: the tables were made from what `schema()` gives. @default 'create' */
  setup?: 'create' | 'expect' | undefined
  /** Listens on a channel of a session of its own, calls `onWake` at each notification, and gives what ends it. Polling goes on, once every `idlePollMs`. @default polling alone */
  listen?: Listen | undefined
  /** Whether to notify listeners after a publish, at most every 20 ms. @default whether `listen` is given */
  notify?: boolean | undefined
  clock?: Clock | undefined
  /** How long a member that fell silent keeps its partitions. @default 10_000 */
  leaseMs?: number | undefined
  /** A restarted process of the same name takes its partitions back at once. No two may have one name at the same time. @default random, later ones sorted behind, so that who joins takes over what is to be shared and nothing else */
  member?: string | undefined
  /** Between two looks for messages of other processes while messages flow. @default 50 */
  pollMs?: number | undefined
  /** Between two looks when nothing comes. @default 1_000 */
  idlePollMs?: number | undefined
  /** After this a statement counts as not answered. @default 10_000 */
  statementMs?: number | undefined
  /** How long a `dedupeId` is remembered. @default 300_000 */
  dedupeWindowMs?: number | undefined
  /** A segment of the log is closed at this size or age, and freed once every group has passed it. @default 128 MiB, 15 min */
  segmentBytes?: number | undefined
  segmentAgeMs?: number | undefined
  /** Told how many unread messages a topic's `maxAgeMs` removed; what a lost answer had to say is not told. */
  onRemovedUnread?: ((topic: string, count: number) => void) | undefined
}

/** A driver with history. */
export type PostgresDriver = BrokerDriver<Capabilities & { readonly history: true }>

const checks: Checks<PostgresDriverOptions> = {
  client: having('query'),
  schema: isString,
  setup: oneOf('create', 'expect'),
  listen: isFunction,
  notify: isBoolean,
  clock: isClock,
  leaseMs: milliseconds(1),
  member: isString,
  pollMs: milliseconds(1),
  idlePollMs: milliseconds(1),
  statementMs: milliseconds(1),
  dedupeWindowMs: number(1),
  segmentBytes: integer(1),
  segmentAgeMs: number(1),
  onRemovedUnread: isFunction,
}

const tenYearsMs = 10 * 365 * 86_400_000

/** A log in PostgreSQL 15 or newer, or in PGlite: one row a message however many groups read it, a cursor a group and partition, nothing written per message when it is handled. */
export function postgresDriver(options: PostgresDriverOptions): PostgresDriver {
  checkOptions('postgresDriver', options, checks, ['client'])
  const {
    client,
    schema = 'messaging',
    setup = 'create',
    clock = systemClock,
    leaseMs = 10_000,
    member: name = uuidv7(clock.now()),
    listen,
    notify = listen !== undefined,
  } = options
  const {
    pollMs = 50,
    idlePollMs = 1_000,
    statementMs = 10_000,
    dedupeWindowMs = 300_000,
    segmentBytes = 134_217_728,
    segmentAgeMs = 900_000,
    onRemovedUnread,
  } = options
  if (!/^[\x21-\x7e]{1,128}$/.test(name)) throw new RangeError(`Bad member ${JSON.stringify(name)}: 1 to 128 visible ASCII characters`)

  const sql = statements(schema)
  const connection = createConnection(client, { clock, statementMs, setup: createSetup(schema, setup) })
  const catalog = createCatalog(connection, sql)
  const maintenance = createMaintenance({ connection, sql, clock, segmentBytes, segmentAgeMs, onRemovedUnread })
  const notifier = createNotifier({ connection, sql, clock, schema, listen, notify, statementMs, onWake: () => heads.wake() })
  const heads = createHeads({
    connection,
    sql,
    clock,
    pollMs,
    idlePollMs: Math.max(pollMs, idlePollMs),
    listening: () => notifier.listening,
    onPoll: () => {
      maintenance.idle()
      notifier.start()
    },
  })
  const publish = createPublish({
    connection,
    sql,
    catalog,
    clock,
    dedupeWindowMs,
    grew: (pid, next) => heads.learn(pid, next),
    delayed: (due) => heads.delayed(due),
  })
  const beats = createBeats(connection, sql, clock, Math.min(leaseMs / 16, 1_000))
  const deps = { connection, sql, heads, beats, clock, leaseMs, touched: maintenance.touched }
  const open = new Set<Consumption>()
  const names = new Set<string>()
  let closed: Promise<void> | undefined

  const assertOpen = (): void => {
    if (closed) throw closedError('The postgres driver')
  }

  /** Two subscriptions of one process to one group are two members. */
  const memberOf = (topic: string, group: string): string => {
    for (let n = 1; ; n++) {
      const member = n === 1 ? name : `${name}#${n}`
      const taken = `${topic} ${group} ${member}`
      if (names.has(taken)) continue
      names.add(taken)
      return member
    }
  }

  const join = async (topic: string, group: string, owner: Ownership): Promise<Consumption> => {
    const entry = (await catalog.find(topic)) ?? fail(topicNotFound(topic))
    const [row] = await connection.run<{ id: number }>(sql.group, [topic, group])
    if (!row) throw groupNotFound(topic, group)
    const member = memberOf(topic, group)
    const free = (): void => void names.delete(`${topic} ${group} ${member}`)
    try {
      const joined = await joinGroup(deps, entry, { id: row.id, name: group }, member, owner)
      return { ...joined, close: () => joined.close().finally(free) }
    } catch (error) {
      free()
      throw error
    }
  }

  return {
    name: 'postgres',
    capabilities: {
      history: true,
      delay: { resolutionMs: Math.max(pollMs, idlePollMs), maxMs: tenYearsMs },
      dedupe: { windowMs: dedupeWindowMs },
      fencing: 'server',
      batchOrder: true,
      settles: 'watermark',
      ackDeadlineMs: undefined,
      maxMessageBytes: 16 * 1_048_576,
      // The counters' rows make publishers take turns: a second statement under way wins little, larger ones much.
      publish: { maxBatch: 1_000, inFlight: 1 },
    },
    admin: guarded(createAdmin(connection, sql, catalog), assertOpen),
    log: guarded(createLog(connection, sql, catalog), assertOpen),

    publish: async (messages, { signal }) => {
      assertOpen()
      const results = await publish(messages, signal)
      maintenance.touched()
      notifier.touched()
      return results
    },

    consume: async (topic, group, owner) => {
      assertOpen()
      notifier.start()
      const consumption =
        group === undefined ? await listenOnly(deps, (await catalog.find(topic)) ?? fail(topicNotFound(topic)), owner) : await join(topic, group, owner)
      let closing: Promise<void> | undefined
      const once: Consumption = {
        ...consumption,
        close: () =>
          (closing ??= consumption.close().finally(() => {
            open.delete(once)
          })),
      }
      open.add(once)
      return once
    },

    ping: async ({ signal }) => {
      assertOpen()
      const [row] = await connection.run<{ server: string; segments: number }>(sql.ping, [], { signal })
      return {
        details: {
          server: row!.server,
          segments: row!.segments,
          listening: notifier.listening,
          ...(maintenance.failure !== undefined && { maintenance: errorText(maintenance.failure) }),
        },
      }
    },

    close: () =>
      (closed ??= (async () => {
        heads.close()
        maintenance.close()
        await Promise.allSettled([...open].map((consumption) => consumption.close()))
        await notifier.close()
      })()),
  }
}

function fail(error: Error): never {
  throw error
}

/** The same functions, refusing after close. */
function guarded<T extends object>(port: T, assertOpen: () => void): T {
  return Object.fromEntries(
    Object.entries(port).map(([method, run]) => [
      method,
      async (...given: unknown[]) => {
        assertOpen()
        return (run as (...given: unknown[]) => unknown)(...given)
      },
    ]),
  ) as T
}
