import { uuidv7 } from '@core-backend/internal/uuid'
import { createInbox, createOutbox, relay as createRelay } from '@core-backend/outbox'
import { activityUseCases } from './application/activities.ts'
import { handlerNames } from './application/handlers.ts'
import { userUseCases } from './application/statistics.ts'
import { topic } from './domain/events.ts'
import { activityStore } from './infrastructure/activity-store.ts'
import { openBroker } from './infrastructure/broker.ts'
import { openDatabase, reachable } from './infrastructure/database.ts'
import { startEmbeddedPostgres } from './infrastructure/embedded-postgres.ts'
import { adoptEvents, eventLog } from './infrastructure/event-log.ts'
import { startHousekeeping } from './infrastructure/housekeeping.ts'
import { countProgress } from './infrastructure/progress.ts'
import { projections as postgresProjections } from './infrastructure/projections.ts'
import { watchOutage } from './infrastructure/outage.ts'
import { timed } from './infrastructure/timed.ts'
import { createTables, schemaOf, sharedSchema } from './infrastructure/schema.ts'
import type { ActivelogSettings } from './infrastructure/settings.ts'
import { untilFree } from './infrastructure/when-free.ts'
import { type Activelog, runCommand, type StartOptions } from './interfaces/command.ts'
import { oneAtATime } from './interfaces/http/health.ts'
import { createLive } from './interfaces/http/live.ts'
import { createMetrics } from './interfaces/http/metrics.ts'
import { routes, untilStarted } from './interfaces/http/routes.ts'
import { serve } from './interfaces/http/server.ts'
import { waitingTime } from './interfaces/http/waiting.ts'
import { broadcast } from './interfaces/broadcast.ts'
import { activityWorker, group } from './interfaces/worker.ts'

/** An event that has waited longer than this in the outbox, or for its handlers, is waiting for something to be mended. */
const staleMs = 10_000
/** A statement of the relay that is not answered by then is late: there are too few connections, or the server has too much to do. */
const lateMs = 2_000

/**
 * ActiveLog, wired by hand, from the database up. `role` says which parts this process has: `api` answers requests, `relay` takes committed events from the
 * outbox to the broker, `worker` handles them, `all` does everything. Rejects when something cannot start; then nothing is left open.
 */
export async function startActivelog(
  settings: ActivelogSettings,
  { logger: log, onFatal = () => {}, signal, closeMs = 20_000, graceMs = 1_000 }: StartOptions,
): Promise<Activelog> {
  const { role, tenants } = settings
  const has = (part: 'api' | 'relay' | 'worker'): boolean => role === 'all' || role === part
  const open: { close(): Promise<unknown> }[] = []
  const closeAll = async (): Promise<void> => {
    for (let last = open.pop(); last; last = open.pop()) await last.close()
  }
  /** Closed in reverse order. */
  const opened = <T extends { close(): Promise<unknown> }>(it: T): T => (open.push(it), it)

  try {
    // The port: one that is taken is told before anything else begins. Until the rest is there, everybody is told to come back.
    let answer: (request: Request) => Response | Promise<Response> = untilStarted
    const http = settings.listen && opened(await serve((request) => answer(request), { ...settings.listen, graceMs }))

    // The database: the one given, else a real PostgreSQL of our own.
    const server =
      settings.databaseUrl === undefined
        ? opened(await startEmbeddedPostgres({ dataDir: settings.dataDir, logger: log, ...(signal && { signal }) }))
        : undefined
    void server?.exited.then((error) => error && onFatal(error))
    const url = settings.databaseUrl ?? server!.url
    if (!server) await reachable(url, { signal })
    signal?.throwIfAborted()
    const { watch, logger } = watchOutage(url, log)
    // Three pools, so that requests in a crowd cannot hold up the renewal of a lease, nor either of them the question how things are. Who waits for a lock of
    // somebody else's gives up before a silence would count as an outage; a handler that waits holds up all streams of the server, so it soon runs again instead.
    const requests = opened(openDatabase(url, { name: 'activelog requests', lockMs: 2_000, watch }))
    const background = opened(openDatabase(url, { name: 'activelog background', max: 24, lockMs: 3_000, watch }))
    const checks = opened(openDatabase(url, { name: 'activelog checks', max: 2, lockMs: 1_000, silenceMs: 10_000, watch }))
    /** What waits for a database that says nothing fails then, and ends. */
    const cutOff = (): void => void Promise.all([requests.close(), background.close(), checks.close()])
    signal?.addEventListener('abort', cutOff)

    // Outbox and inbox: events commit with the data they speak of, and have their effects once.
    const outbox = createOutbox({ schema: sharedSchema })
    const inbox = createInbox({ schema: sharedSchema })
    await createTables(background, tenants, [outbox.schema(), inbox.schema()], { logger, signal })
    await adoptEvents(background, tenants, logger, { signal })

    // The broker: the one given, else the database.
    const opening = { url: settings.brokerUrl, database: background, listenUrl: server ? undefined : url, topic, group, logger }
    const broker = opened(await untilFree("the broker's tables", () => openBroker(opening), { logger, signal }))

    const projections = postgresProjections(requests)

    const relayDb = timed(background)
    const relay = has('relay')
      ? createRelay({
          db: relayDb,
          outbox,
          publisher: broker,
          groups: { [topic]: [group] },
          hooks: {
            onError: (error, during) => logger.warn({ err: error, during }, 'The relay waits'),
            onParked: ({ error, ...message }) => logger.error({ err: error, ...message }, 'An event cannot be published'),
            onAlarm: (alarm) => logger.warn(alarm, 'The outbox lags behind'),
          },
        })
      : undefined
    if (relay) await opened(relay).start()

    const working = has('worker')
      ? activityWorker({ subscriber: broker, inbox: inbox.runner(background.transaction, { commitChecked: true }), projections, logger })
      : undefined
    if (working) {
      await opened(working.worker).start()
      opened(startHousekeeping({ db: background, inbox, tenants, logger }))
    }

    const live = has('api') ? createLive({ log: eventLog(requests), logger }) : undefined
    if (live) opened(broadcast(broker, live, logger))

    /** Asks beside the requests: a crowd that waits for one tenant's lock has all their connections, and the others are still served. */
    const database = oneAtATime(async (): Promise<{ status: string }> => {
      const { rows } = await checks.query(`SELECT current_setting('transaction_read_only') AS "readOnly"`)
      if ((rows[0] as { readOnly: string }).readOnly === 'on') throw new Error('The database takes no writes, as a standby does')
      return { status: 'ok' }
    })
    const counts = oneAtATime(() => outbox.counts(checks))
    const lag = oneAtATime(() => broker.lag(topic, group))
    const brokerHealth = oneAtATime(() => broker.health())
    const letters = broker.deadLetters(topic, group)
    /** Counted in the rows: it is the truth also where this process has no relay, and while the relay has nothing in hand. */
    const waiting = async (): Promise<{ status: string }> => {
      const found = await counts()
      return { status: found.oldestAgeMs < staleMs && found.parked === 0 ? 'ok' : 'degraded', ...found }
    }
    const waited = waitingTime()
    /** Events that wait for workers, of whatever process, while there is none, or for too long. */
    const handling = async (): Promise<{ status: string; messages: number; members: number; oldestAgeMs: number }> => {
      const { messages, members, oldestAt } = await lag()
      const oldestAgeMs = waited(oldestAt)
      return { status: (messages > 0 && members === 0) || oldestAgeMs >= staleMs ? 'degraded' : 'ok', messages, members, oldestAgeMs }
    }
    const relaying =
      relay &&
      (async (): Promise<{ status: string; state: string; oldestAgeMs: number; waitingMs: number }> => {
        const { state, oldestAgeMs } = await relay.check()
        const waitingMs = relayDb.waitingMs()
        return { status: state === 'running' && oldestAgeMs < staleMs && waitingMs < lateMs ? 'ok' : 'degraded', state, oldestAgeMs, waitingMs }
      })
    answer = routes({
      api: live && {
        activities: activityUseCases({ store: activityStore(requests, outbox), newId: uuidv7, now: () => new Date(), onCommit: relay?.wake }),
        users: userUseCases({ projections, now: () => new Date() }),
        live,
        tenants,
      },
      checks: {
        // Requests need the database alone: what they write is published whenever the broker is back.
        ready: role === 'api' || role === 'all' ? { database } : { database, broker: brokerHealth },
        health: { database, broker: brokerHealth, outbox: waiting, workers: handling, ...(relaying && { relay: relaying }) },
      },
      metrics: createMetrics({
        outbox: counts,
        lag: async () => (await lag()).messages,
        deadLetters: oneAtATime(() => letters.count()),
        ...(relay && { relayPublished: () => relay.stats().published }),
        ...(working && { handlers: working.processor.metrics }),
        ...(live && { listeners: () => live.listeners }),
      }),
      newId: uuidv7,
      logger,
    }).fetch

    const close = async (): Promise<void> => {
      const late = setTimeout(cutOff, closeMs)
      live?.close() // these streams never end by themselves
      await http?.close()
      await closeAll()
      clearTimeout(late)
    }
    let closing: Promise<void> | undefined
    const counted = { db: background, outbox, broker, topic, group, tenants, handlers: handlerNames.length }
    const path = `${schemaOf(tenants[0]!)},${sharedSchema}`
    const psql =
      server &&
      `PGPASSFILE='${server.passwordFile.replaceAll("'", `'\\''`)}' PGOPTIONS='-c search_path=${path}' psql -h 127.0.0.1 -p ${server.port} -U postgres`
    signal?.throwIfAborted()
    signal?.removeEventListener('abort', cutOff)
    return { url: http?.url, psql, progress: (sinceId) => countProgress(counted, sinceId), close: () => (closing ??= close()) }
  } catch (error) {
    await closeAll()
    throw error
  }
}

if (process.argv[1] === import.meta.filename) await runCommand(startActivelog)
