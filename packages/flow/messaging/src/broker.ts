import type { Clock } from '#internal/clock'
import { systemClock } from '#internal/clock'
import { checkOptions, having, isFunction } from '#internal/options'
import { errorText } from '#internal/thrown'
import { type Administration, createAdministration } from './administration.ts'
import { createCopies } from './copies.ts'
import { createDeadLetters, type DeadLetters, ensureRetrySource } from './dead-letters.ts'
import type { BrokerDriver, Capabilities, Start } from './driver.ts'
import { closedError, unsupported } from './errors.ts'
import type { Hooks, Tracing } from './hooks.ts'
import type { Codec, MessageInput } from './message.ts'
import { checkGroup, checkSuffix, checkTopic, retryTopic } from './names.ts'
import { brokerChecks, signalChecks, pullChecks } from './options.ts'
import { checkPlan } from './plan.ts'
import { type BatchResult, createPublisher, type Published, type PublishOptions } from './publisher.ts'
import { createPuller, type Puller, type PullOptions } from './pull.ts'
import { retryPolicy, type RetryOptions } from './retry.ts'
import type { Handler, Middleware, Turnstile } from './runner.ts'
import { type BrokerStats, Stats } from './stats.ts'
import { createSubscription, type Subscription } from './subscription.ts'
import { createTopology } from './topology.ts'

/** What holds for a broker and everything made from it. */
export interface BrokerOptions {
  /** The only source of time. */
  clock?: Clock | undefined
  /** `create`: publish and subscribe make what is missing. `expect`: a missing topic is `ERR_MESSAGING_TOPIC_NOT_FOUND`. @default 'create' */
  topics?: 'create' | 'expect' | undefined
  /** Of topics made on the way. @default 4 */
  partitions?: number | undefined
  /** Dead letters stand in `<topic>.<group><suffix>`. @default '.dlq' */
  deadLetterSuffix?: string | undefined
  /** With key and headers, the same on every broker. @default 1_000_000, or the broker's own limit less 16 KiB where that is smaller */
  maxMessageBytes?: number | undefined
  /** Messages that may wait for the broker before `publish` is refused with `ERR_MESSAGING_BACKPRESSURE`. @default 100_000 */
  maxPending?: number | undefined
  /** Around every handler; the first is the outermost. */
  middleware?: readonly Middleware[] | undefined
  hooks?: Hooks | undefined
  /** From `./otel`. */
  tracing?: Tracing | undefined
  /** Of jitter. @default Math.random */
  random?: (() => number) | undefined
}

/** How a handler gets its messages. */
export interface SubscribeOptions<T = Uint8Array> {
  /** Each group gets every message, its members share them. Without one: broadcast, from the latest message on, nothing kept. */
  group?: string | undefined
  /** Handlers at once. @default 1 */
  concurrency?: number | undefined
  /** What stays in sequence: messages of a key, of a partition, nothing. @default 'key' */
  order?: 'key' | 'partition' | 'none' | undefined
  /** Where a group that does not exist yet begins. @default 'earliest' where the broker keeps history */
  start?: Start | undefined
  retry?: RetryOptions | undefined
  /** False: after the last failure the message is dropped and `onError` told. @default true */
  deadLetter?: boolean | undefined
  /** Makes `message.body`; what it cannot decode is a dead letter. @default the bytes */
  codec?: Codec<T> | undefined
  middleware?: readonly Middleware[] | undefined
  /** @default none */
  handlerTimeoutMs?: number | undefined
  /** How long a handler may go on after its signal aborted. @default 5_000 */
  abortGraceMs?: number | undefined
  /** @default 30_000 */
  drainMs?: number | undefined
  /** Messages handed over and not started, a topic; at least one a partition that this member owns. @default 100 */
  prefetch?: number | undefined
  /** Messages held beyond the watermark, a partition. @default 1_000 */
  maxInFlight?: number | undefined
  /** Starts that end with the process before a message is a dead letter. @default 3 */
  maxCrashes?: number | undefined
  /** Progress is stored this often at least while there is some. @default 200 */
  flushMs?: number | undefined
  /** … or after so many messages of a partition. @default 500 */
  flushEvery?: number | undefined
  /** Closes the subscription when it aborts. */
  signal?: AbortSignal | undefined
}

/** How the broker is: `down` when it does not answer, `degraded` when a handler is stuck or a subscription cannot reach it. */
export interface BrokerHealth {
  readonly status: 'ok' | 'degraded' | 'down'
  readonly driver: string
  readonly latencyMs: number | undefined
  readonly stuck: number
  readonly details: Readonly<Record<string, string | number | boolean>>
  /** Why, in a line. */
  readonly error?: string
}

/** What users hold: the same on every driver. */
export interface Broker<C extends Capabilities = Capabilities> extends Administration<C> {
  readonly driver: string
  readonly capabilities: C
  /** Resolves when the broker has stored the message. `ERR_MESSAGING_PUBLISH`: certainly not stored. `ERR_MESSAGING_PUBLISH_UNKNOWN`: no answer in time, it may be. */
  publish(message: MessageInput, options?: PublishOptions): Promise<Published>
  /**
   * In order; result i belongs to message i, and no message's failure rejects. After a message of a key failed, no later one of that key in the batch is stored.
   * Rejects with the reason of a signal that had aborted before, `ERR_MESSAGING_CLOSED`, `ERR_MESSAGING_BACKPRESSURE`, and with `TypeError` for what is no array, before anything is sent.
   */
  publishBatch(messages: readonly MessageInput[], options?: PublishOptions): Promise<readonly BatchResult[]>
  /** Handles every message of the topics. The handler's return acknowledges, its throw follows `retry`. */
  subscribe<T = Uint8Array>(topics: string | readonly string[], options: SubscribeOptions<T>, handler: Handler<T>): Promise<Subscription>
  /** Batches on demand instead of a handler. */
  pull<T = Uint8Array>(topics: string | readonly string[], options: PullOptions<T>): Promise<Puller<T>>
  /** What a group gave up on a topic. */
  deadLetters(topic: string, group: string): DeadLetters
  stats(): BrokerStats
  /** Non-destructive. */
  health(options?: { signal?: AbortSignal }): Promise<BrokerHealth>
  /** Closes the subscriptions, then waits for the messages under way. Twice is fine. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Makes a broker of a driver: `createBroker(memoryDriver())`. */
export function createBroker<C extends Capabilities>(driver: BrokerDriver<C>, options: BrokerOptions = {}): Broker<C> {
  having('publish', 'consume', 'ping', 'close')(driver, 'createBroker: driver')
  checkOptions('createBroker', options, brokerChecks)
  const { clock = systemClock, topics: mode = 'create', partitions = 4, deadLetterSuffix: suffix = '.dlq', hooks = {}, tracing, random = Math.random } = options
  checkSuffix(suffix)
  const reserved = ['.retry', suffix]
  const { capabilities } = driver
  const stats = new Stats()
  const suspects = turnstile()
  const topology = createTopology(driver, mode, { partitions, keep: false, maxAgeMs: undefined })
  const maxMessageBytes = options.maxMessageBytes ?? Math.min(1_000_000, capabilities.maxMessageBytes - 16_384)
  if (!(maxMessageBytes >= 1 && maxMessageBytes <= capabilities.maxMessageBytes - 16_384))
    throw new RangeError(`maxMessageBytes must be from 1 to ${capabilities.maxMessageBytes - 16_384} with the ${driver.name} driver, got ${maxMessageBytes}`)
  const publisher = createPublisher(driver, { clock, hooks, tracing, topology, maxMessageBytes, maxPending: options.maxPending ?? 100_000, reserved })
  const subscriptions = new Set<Subscription>()
  const pullers = new Set<{ close(): Promise<void> }>()
  let closed: Promise<void> | undefined

  const assertOpen = (): void => {
    if (closed) throw closedError('The broker')
  }

  const startOf = (start: Start | undefined): Start => {
    if (start !== undefined && start !== 'latest' && !capabilities.history) throw unsupported('A start other than latest', driver.name)
    return start ?? (capabilities.history ? 'earliest' : 'latest')
  }

  const subscribe = async <T>(given: string | readonly string[], plan: SubscribeOptions<T>, handler: Handler<T>): Promise<Subscription> => {
    assertOpen()
    const { topics: names, leaveOrder } = checkPlan(given, plan, handler, { reserved, capabilities, driver: driver.name })
    const { group, order = 'key', retry = {}, concurrency = 1, prefetch = 100, maxInFlight = 1_000, deadLetter } = plan

    const sources: string[] = []
    for (const topic of names) {
      // With a group `ensureGroup` sees that the topic is still there.
      if (group === undefined) topology.forget(topic)
      await topology.ensureTopic(topic)
      sources.push(topic)
      if (group === undefined) continue
      await topology.ensureGroup(topic, group, startOf(plan.start))
      sources.push(await ensureRetrySource(topology, topic, group))
    }
    assertOpen()

    /** The topic that a source's messages are of: the group's private one speaks for it. */
    const topicOf = new Map(names.flatMap((topic) => [[topic, topic] as const, ...(group === undefined ? [] : [[retryTopic(topic, group), topic] as const])]))
    const copies =
      group === undefined ? undefined : createCopies({ publisher, topology, clock, suffix, dedupe: capabilities.dedupe !== undefined }, topicOf, group)
    const wrapped = [...(options.middleware ?? []), ...(plan.middleware ?? [])].reduceRight<Handler<unknown>>((next, wrap) => {
      const handle: unknown = wrap(next)
      isFunction(handle, 'subscribe: what middleware gives for the next handler')
      return handle as Handler<unknown>
    }, handler as Handler<unknown>)
    const traced: Handler<unknown> = tracing ? (message, context) => tracing.handle(message, context, () => wrapped(message, context)) : wrapped

    let subscription: Subscription | undefined
    const onAbort = (): void => void subscription?.close()
    subscription = await createSubscription(
      {
        driver,
        clock,
        hooks,
        stats,
        closed: () => {
          if (subscription) subscriptions.delete(subscription)
          plan.signal?.removeEventListener('abort', onAbort)
        },
      },
      {
        topics: sources,
        order,
        concurrency,
        prefetch: Math.max(prefetch, Math.min(concurrency, 1_000)),
        maxInFlight,
        flushMs: plan.flushMs ?? 200,
        flushEvery: plan.flushEvery ?? 500,
        drainMs: plan.drainMs ?? 30_000,
      },
      {
        group,
        handler: traced,
        codec: plan.codec,
        policy: retryPolicy(retry, { leaveOrder, random }),
        handlerTimeoutMs: plan.handlerTimeoutMs,
        abortGraceMs: plan.abortGraceMs ?? 5_000,
        maxCrashes: plan.maxCrashes ?? 3,
        suspects,
        copies,
        deadLetter: deadLetter !== false,
      },
    )
    subscriptions.add(subscription)
    plan.signal?.addEventListener('abort', onAbort, { once: true })
    if (plan.signal?.aborted || closed) {
      await subscription.close()
      plan.signal?.throwIfAborted()
      assertOpen()
    }
    return subscription
  }

  const close = (): Promise<void> =>
    (closed ??= (async () => {
      await Promise.all([...pullers, ...subscriptions].map((one) => one.close()))
      await publisher.close(30_000)
      await driver.close()
    })())

  const broker: Broker = {
    driver: driver.name,
    capabilities,
    // Open until the handlers are drained: what they publish meanwhile still goes out.
    publish: publisher.publish,
    publishBatch: publisher.publishBatch,
    subscribe,
    pull: async <T>(topics: string | readonly string[], plan: PullOptions<T>): Promise<Puller<T>> => {
      checkOptions('pull', plan, pullChecks, ['group'])
      const { prefetch = 100 } = plan
      const puller: Puller<T> = await createPuller<T>(
        clock,
        (handler) => subscribe(topics, { ...plan, prefetch, concurrency: prefetch }, handler),
        () => void pullers.delete(puller),
      )
      pullers.add(puller)
      return puller
    },

    deadLetters: (topic, group) => {
      checkTopic(topic, reserved)
      if (group === undefined) throw new TypeError('deadLetters(topic, group): group must be a string, got undefined; each group has its own')
      checkGroup(group)
      return createDeadLetters({ driver, publisher, topology, clock, suffix }, topic, group)
    },

    ...createAdministration(driver, topology, { partitions, reserved, assertOpen, startOf }),

    stats: () => {
      const { acked, skipped, retried, dropped } = stats.outcomes
      const live = [...subscriptions].map((subscription) => subscription.stats())
      return {
        published: publisher.published,
        delivered: stats.delivered,
        acked,
        skipped,
        failed: stats.failed,
        retried,
        deadLettered: stats.outcomes['dead-lettered'],
        dropped,
        running: live.reduce((sum, one) => sum + one.running, 0),
        buffered: live.reduce((sum, one) => sum + one.buffered, 0),
        stuck: stats.stuck,
        subscriptions: live.length,
      }
    },

    health: async (options = {}) => {
      checkOptions('health', options, signalChecks)
      const { signal } = options
      const started = clock.monotonic()
      const [late, answered] = [new AbortController(), new AbortController()]
      clock.sleep(5_000, { signal: answered.signal, background: true }).then(
        () => late.abort(new Error('no answer within 5 s')),
        () => undefined,
      )
      const limit = signal ? AbortSignal.any([signal, late.signal]) : late.signal
      const report = { driver: driver.name, stuck: stats.stuck }
      try {
        const { details = {} } = await driver.ping({ signal: limit })
        const error = [...subscriptions].map((subscription) => subscription.stats().error).find((one) => one !== undefined)
        const degraded = stats.stuck > 0 || error !== undefined
        return {
          ...report,
          status: degraded ? 'degraded' : 'ok',
          latencyMs: clock.monotonic() - started,
          details,
          ...(error === undefined ? {} : { error: errorText(error) }),
        }
      } catch (error) {
        return { ...report, status: 'down', latencyMs: undefined, details: {}, error: errorText(error) }
      } finally {
        answered.abort()
      }
    },

    close,
    [Symbol.asyncDispose]: close,
  }

  return broker as Broker<C>
}

/** Lets one through at a time. */
function turnstile(): Turnstile {
  let last: Promise<void> = Promise.resolve()
  return {
    enter: () => {
      const before = last
      let leave!: () => void
      last = new Promise((resolve) => {
        leave = resolve
      })
      return before.then(() => leave)
    },
  }
}
