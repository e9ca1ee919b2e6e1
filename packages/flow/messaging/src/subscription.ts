import type { Clock } from '#internal/clock'
import type { BrokerDriver } from './driver.ts'
import { MessagingError } from './errors.ts'
import { type Hooks, tell } from './hooks.ts'
import { isConcurrency } from './options.ts'
import { createRunner, type RunnerOptions } from './runner.ts'
import { createSchedule } from './schedule.ts'
import { openSource, type Source, type SourceOptions } from './source.ts'
import type { Stats } from './stats.ts'

export interface SubscriptionDeps {
  readonly driver: BrokerDriver
  readonly clock: Clock
  readonly hooks: Hooks
  readonly stats: Stats
  /** Told once, when it has closed. */
  readonly closed: () => void
}

/** What the engine needs to know of a subscription, every default filled in. */
export interface SubscriptionPlan extends Pick<SourceOptions, 'prefetch' | 'maxInFlight' | 'flushMs' | 'flushEvery'> {
  /** Each a topic that exists: the user's, and the group's private source for each. */
  readonly topics: readonly string[]
  readonly order: 'key' | 'partition' | 'none'
  readonly concurrency: number
  readonly drainMs: number
}

/** Where a subscription is in its life. */
export type SubscriptionState = 'running' | 'paused' | 'closing' | 'closed'

/** A handler at work on one or more topics. */
export interface Subscription {
  readonly state: SubscriptionState
  /** Starts nothing more and asks for nothing more; what runs goes on, partitions stay. */
  pause(): void
  resume(): void
  /** How many handlers may run at once, from now on. */
  setConcurrency(n: number): void
  stats(): SubscriptionStats
  /**
   * Stops asking, drains until `drainMs`, then aborts the handlers' signals and waits `abortGraceMs`; what was not acknowledged goes back to the broker.
   * Called inside a handler it waits for that handler too: don't await it there.
   */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** A subscription at this moment. */
export interface SubscriptionStats {
  readonly running: number
  readonly buffered: number
  /** Handlers that go on after their signal aborted and the grace is over. */
  readonly stuck: number
  /** Partitions held, and of these those whose window is full: nothing more is asked for until their first message is done. */
  readonly partitions: number
  readonly full: number
  /** The last failure of the broker behind this subscription, until something works again. What was thrown, mostly an `Error`, of which JSON is `{}`. */
  readonly error: unknown
}

/** The engine: sources hand over jobs, the schedule gives them slots, the runner takes each to its outcome. Everything happens on events; no loop polls but the driver's. */
export async function createSubscription(
  deps: SubscriptionDeps,
  plan: SubscriptionPlan,
  running: Omit<RunnerOptions, 'clock' | 'hooks'>,
): Promise<Subscription> {
  const { driver, clock, hooks, stats } = deps
  const { group, abortGraceMs } = running
  const { topics, order, concurrency, drainMs, ...bounds } = plan
  let state: SubscriptionState = 'running'
  let stuck = 0
  const sources: Source[] = []
  const stop = new AbortController()
  let drained: (() => void) | undefined
  let closing: Promise<void> | undefined

  const schedule = createSchedule({
    order,
    concurrency,
    open: () => state === 'running',
    start: (job) => {
      const { source } = job.owned
      source.buffered--
      runner.run(job, source.consumption)
      source.kick()
    },
  })

  /** Nothing runs any more, or only what close need not wait for. */
  const tellDrained = (): void => {
    if (drained && [...schedule.running].every((job) => job.stuck)) drained()
  }

  const runner = createRunner(
    { ...running, clock, hooks },
    {
      finish: (job, outcome) => {
        if (job.owned.source.finish(job)) stats.count(outcome)
      },
      free: (job, again) => {
        job.waiting = again
        schedule.free(job, again)
        job.owned.source.freed(job.owned)
        job.owned.source.kick()
        tellDrained()
        schedule.run()
      },
      stored: (job) => job.owned.source.flush(),
      resume: (job) => {
        job.waiting = false
        if (job.dropped) return
        job.owned.source.buffered++
        schedule.back(job)
        schedule.run()
      },
      stuck: (job, n) => {
        stuck += n
        stats.stuck += n
        tellDrained()
      },
      failed: () => {
        stats.failed++
      },
    },
  )

  const open = (topic: string): Promise<Source> =>
    openSource(driver, {
      ...bounds,
      topic,
      group,
      clock,
      open: () => state === 'running',
      accept: (job) => {
        stats.delivered++
        schedule.add(job, job.delivery.message.key)
      },
      start: schedule.run,
      abort: runner.abort,
      onError: (error) => tell(hooks, 'onError', { error, topic, group }),
    })

  /** Brokers with an ack deadline hear that what is held is still wanted. */
  const extendAll = async (everyMs: number): Promise<void> => {
    while (!stop.signal.aborted) {
      await clock.sleep(everyMs, { signal: stop.signal, background: true }).catch(() => undefined)
      for (const { consumption, owned, topic } of sources) {
        const held = [...owned.values()].flatMap((one) => [...one.unfinished()]).filter((job) => !job.dropped && !job.stuck)
        if (held.length > 0)
          await consumption.extend(held.map((job) => job.delivery)).catch((error: unknown) => tell(hooks, 'onError', { error, topic, group }))
      }
    }
  }

  const untilDrained = async (ms: number): Promise<boolean> => {
    if ([...schedule.running].every((job) => job.stuck)) return true
    const end = new AbortController()
    const done = new Promise<boolean>((resolve) => {
      drained = () => resolve(true)
    })
    const late = clock.sleep(ms, { signal: end.signal }).then(
      () => false,
      () => false,
    )
    const inTime = await Promise.race([done, late])
    end.abort()
    drained = undefined
    return inTime
  }

  const shutDown = async (): Promise<void> => {
    state = 'closing'
    for (const source of sources) {
      source.interrupt()
      source.dropWaiting()
    }
    if (!(await untilDrained(drainMs))) {
      const reason = new MessagingError('ERR_MESSAGING_SHUTDOWN', `The subscription closed and its drain of ${drainMs} ms is over`, { retryable: true })
      for (const job of schedule.running) runner.abort(job, reason)
      await untilDrained(abortGraceMs + 50)
    }
    stop.abort()
    await Promise.all(sources.map((source) => source.leave()))
    state = 'closed'
  }

  const close = (): Promise<void> => (closing ??= shutDown().finally(deps.closed))

  try {
    for (const topic of topics) sources.push(await open(topic))
  } catch (error) {
    await close()
    throw error
  }
  if (driver.capabilities.ackDeadlineMs !== undefined) void extendAll(driver.capabilities.ackDeadlineMs / 3)

  return {
    get state() {
      return state
    },
    pause: () => {
      if (state !== 'running') return
      state = 'paused'
      for (const source of sources) source.interrupt()
    },
    resume: () => {
      if (state !== 'paused') return
      state = 'running'
      schedule.run()
      for (const source of sources) source.kick()
    },
    setConcurrency: (n) => {
      isConcurrency(n, 'setConcurrency: n')
      schedule.setConcurrency(n)
    },
    stats: () => {
      const owned = sources.flatMap((source) => [...source.owned.values()])
      return {
        running: schedule.running.size,
        buffered: sources.reduce((sum, source) => sum + source.buffered, 0),
        stuck,
        partitions: owned.length,
        full: owned.filter((one) => one.size >= plan.maxInFlight).length,
        error: sources.find((source) => source.error !== undefined)?.error,
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}
