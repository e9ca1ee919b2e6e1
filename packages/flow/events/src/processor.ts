import { fullJitter } from '#internal/backoff'
import { saysNo } from '#internal/callbacks'
import { type Clock, systemClock } from '#internal/clock'
import { checkOptions, isString, shown } from '#internal/options'
import { errorText } from '#internal/thrown'
import { uuidv7 } from '#internal/uuid'
import { createAttempts } from './attempts.ts'
import { decode, readEnvelope } from './envelope.ts'
import { EventHandlingError, type HandlerFailure } from './errors.ts'
import { type DomainEvent, type AnyEventDefinition, type EventOf, toLatest } from './event.ts'
import type { EventHandler, EventHandlerFunction, HandlerOptions, Inbox, RawEvent, RetryOptions } from './handler.ts'
import { guarded, type ProcessorHooks, warning } from './hooks.ts'
import type { DeliveryContext, ReceivedMessage } from './message.ts'
import { assertEvent, assertMessage, checkHandler, isDefinition, processorChecks, rawEventChecks, signalChecks } from './options.ts'
import { createMeter, type HandlerMetrics } from './metrics.ts'
import { type EventRegistry, unknownEvent } from './registry.ts'
import { Delivery, type Handler, runTogether } from './run.ts'

/** The handlers that need not run again, in the headers of a dead letter and of its replay. */
const doneHeader = 'events-done'

/** The port through which an application's core hears of events. */
export interface EventSubscriber<Tx = undefined> {
  /** Throws `TypeError` when a handler of that name is there already, or another event has this one's name. */
  on<D extends AnyEventDefinition>(
    event: D,
    handler: EventHandlerFunction<EventOf<D>, Tx> | EventHandler<EventOf<D>, Tx>,
    options?: HandlerOptions,
  ): EventSubscriber<Tx>
  /** For messages whose event's name matches, undecoded; `*` stands for any text: `legacy.*`, `*`. The name must be unique among all handlers. */
  onRaw(pattern: string, handler: EventHandlerFunction<RawEvent, Tx> | EventHandler<RawEvent, Tx>, options?: HandlerOptions): EventSubscriber<Tx>
  /** Deliveries under way end with the handlers that they began with. False when there is no such handler. */
  off(event: AnyEventDefinition | string, name: string): boolean
}

/** Runs each event's handlers, each until it succeeds. */
export interface EventProcessor<Tx = undefined> extends EventSubscriber<Tx> {
  on<D extends AnyEventDefinition>(
    event: D,
    handler: EventHandlerFunction<EventOf<D>, Tx> | EventHandler<EventOf<D>, Tx>,
    options?: HandlerOptions,
  ): EventProcessor<Tx>
  onRaw(pattern: string, handler: EventHandlerFunction<RawEvent, Tx> | EventHandler<RawEvent, Tx>, options?: HandlerOptions): EventProcessor<Tx>
  /**
   * Resolves when every handler has succeeded. Rejects with `EventHandlingError` when one has failed for good, with `EventError`
   * when the event is unknown, with the signal's reason when it aborted first.
   */
  processEvent(event: DomainEvent, options?: { signal?: AbortSignal }): Promise<void>
  /** The same from bytes: JSON data, or a structured CloudEvent when a `content-type` header says so. `version` is that of the data, 1 by default. */
  processRawEvent(bytes: Uint8Array, type: string, options?: RawEventOptions): Promise<void>
  /** A subscription's handler. What the two above reject with becomes a dead letter here, where `ctx` has them; else it rejects likewise. */
  processMessage(message: ReceivedMessage, ctx?: DeliveryContext): Promise<void>
  /** Topics of the events that have handlers. */
  readonly topics: readonly string[]
  metrics(): ProcessorMetrics
}

/** What the bytes do not say. */
export interface RawEventOptions {
  /** @default a new UUIDv7, of which an inbox is told that it is not stable: that of `@core-backend/outbox` then refuses the event (`ERR_INBOX_UNSTABLE_ID`) */
  id?: string | undefined
  version?: number | undefined
  headers?: Readonly<Record<string, string>> | undefined
  signal?: AbortSignal | undefined
}

/** What the processor has counted since it was made. */
export interface ProcessorMetrics {
  readonly handlers: readonly HandlerMetrics[]
  /** Messages without a handler. */
  readonly skipped: number
  /** Shared transactions that failed, after which each handler ran in its own. */
  readonly separated: number
  readonly deadLettered: number
}

/** What holds for all handlers. */
export interface ProcessorOptions<Tx> {
  /** Events known beside those that have handlers: known ones without a handler are skipped, whatever `onUnknown` says. */
  registry?: EventRegistry | undefined
  /** What to do with an event that is neither known nor matched. A known one of an unknown version is always a dead letter. @default 'deadLetter' */
  onUnknown?: 'skip' | 'deadLetter' | undefined
  /** For handlers that have none of their own. @default { maxAttempts: 3, initialDelayMs: 100, maxDelayMs: 30_000, multiplier: 2 } */
  retry?: RetryOptions | undefined
  /** Makes each handler's effects happen once, in `ctx.tx`. */
  inbox?: Inbox<Tx> | undefined
  /**
   * Runs an event's handlers in one transaction of the inbox: one commit instead of one each. When it fails, all are undone and begin anew, each in its own; the first run counts for
   * none of them. For handlers whose effects are all in `ctx.tx`, without savepoints (with the inbox of `@core-backend/outbox` those that make one run in their own). An event with a handler that has a `timeoutMs` or a `policy` is handled as without it. @default false
   */
  sharedTransaction?: boolean | undefined
  /** The event's name in messages that are no CloudEvents, such as `(message) => message.headers['event_type']`. */
  typeOf?: (message: ReceivedMessage) => string | undefined
  /** How long a handler may go on after its timeout before it counts as stuck. @default 5_000 */
  abortGraceMs?: number | undefined
  hooks?: ProcessorHooks | undefined
  clock?: Clock | undefined
}

interface Entry {
  /** The event's name or the pattern. */
  readonly event: string
  readonly matches: (type: string) => boolean
  readonly definition: AnyEventDefinition | undefined
  readonly handler: Handler
}

/** What to do with one event's name; made once for each. */
interface Plan {
  readonly known: boolean
  /** Present when a handler wants the event decoded. */
  readonly definition: AnyEventDefinition | undefined
  readonly handlers: readonly Handler[]
  /** Whether its handlers may run in one transaction. */
  readonly shared: boolean
}

const handled = Promise.resolve()

/** Makes a processor without handlers: add them by `on` and `onRaw`. */
export function createEventProcessor<Tx = undefined>(options: ProcessorOptions<Tx> = {}): EventProcessor<Tx> {
  checkOptions('createEventProcessor', options, processorChecks)
  const { registry, onUnknown = 'deadLetter', inbox, sharedTransaction = false, typeOf, abortGraceMs = 5_000, clock = systemClock } = options
  if (sharedTransaction && !inbox?.runTogether) throw new TypeError('sharedTransaction needs an inbox with runTogether')
  const hooks = guarded(options.hooks ?? {})
  const { start, succeed } = createAttempts(clock, hooks)
  const known = new Map<string, AnyEventDefinition>([...(registry ?? [])].map((definition) => [definition.name, definition]))
  const plans = new Map<string, Plan>()
  let entries: readonly Entry[] = []
  let skipped = 0
  let separated = 0
  let deadLettered = 0

  function planFor(type: string): Plan {
    const made = plans.get(type)
    if (made) return made
    const matching = entries.filter((entry) => entry.matches(type))
    const definition = matching.find((entry) => entry.definition)?.definition
    const handlers = matching.map((entry) => entry.handler)
    const shared = sharedTransaction && handlers.every(({ timeoutMs, policy }) => timeoutMs === undefined && !policy)
    const plan = { known: known.has(type) || matching.length > 0, definition, handlers, shared }
    if (plans.size >= 1_000) plans.clear() // names come from outside
    plans.set(type, plan)
    return plan
  }

  function register(event: string, definition: AnyEventDefinition | undefined, given: Given, handlerOptions: HandlerOptions): EventProcessor<Tx> {
    const handler = handlerOf(
      given,
      definition === undefined,
      { ...handlerOptions, retry: { ...options.retry, ...handlerOptions.retry } },
      { inbox, clock, abortGraceMs },
    )
    const twin = entries.find((entry) => entry.handler.name === handler.name && (entry.event === event || !entry.definition || !definition))
    if (twin) throw new TypeError(`A handler named ${handler.name} is registered for ${twin.event} already: give this one for ${event} another name`)
    entries = [...entries, { event, definition, handler, matches: definition ? (type) => type === event : globOf(event) }]
    plans.clear()
    return processor
  }

  /** Runs the handlers side by side. Returns at once, without a promise, when every one of them did and succeeded. */
  function run(plan: Plan, handlers: readonly Handler[], delivery: Delivery, before: readonly string[]): Promise<void> {
    let pending: Promise<HandlerFailure | undefined>[] | undefined
    let now = 0
    for (const handler of handlers) {
      now ||= clock.monotonic() // asking the time is most of what a synchronous handler costs here
      const running = start(handler, delivery, now)
      if (typeof running === 'number') now = running
      else {
        ;(pending ??= []).push(running)
        now = 0
      }
    }
    return pending ? conclude(plan, delivery, before, pending) : handled
  }

  /** Runs the handlers in one transaction; what undoes it, be it a handler, a statement or the commit, undoes all of them and blames none. */
  async function together(plan: Plan, handlers: readonly Handler[], delivery: Delivery, before: readonly string[]): Promise<void> {
    const startedAt = clock.monotonic()
    for (const { meter } of handlers) meter.inFlight++
    let ran: readonly string[]
    try {
      ran = await runTogether(inbox as Required<Inbox<unknown>>, handlers, delivery)
    } catch (error) {
      for (const { meter } of handlers) meter.inFlight--
      delivery.signal?.throwIfAborted()
      separated++
      hooks.onSeparated?.({ event: delivery.name, id: delivery.id, error })
      return run(plan, handlers, delivery, before)
    }
    for (const handler of handlers) succeed(handler, delivery, 1, startedAt, !ran.includes(handler.name))
  }

  /** `before` names the handlers that succeeded on an earlier delivery of the same message. */
  function deliver(plan: Plan, delivery: Delivery, before: readonly string[]): Promise<void> {
    delivery.signal?.throwIfAborted()
    const handlers = before.length === 0 ? plan.handlers : plan.handlers.filter(({ name }) => !before.includes(name))
    if (handlers.length < plan.handlers.length) for (const { name, meter } of plan.handlers) if (before.includes(name)) meter.duplicates++
    return plan.shared && handlers.length > 1 ? together(plan, handlers, delivery, before) : run(plan, handlers, delivery, before)
  }

  /** One after the other costs less than `Promise.all`, and none of them rejects. */
  async function conclude(plan: Plan, delivery: Delivery, before: readonly string[], pending: readonly Promise<HandlerFailure | undefined>[]): Promise<void> {
    let failures: HandlerFailure[] | undefined
    for (const running of pending) {
      const failure = await running
      if (failure) (failures ??= []).push(failure)
    }
    if (!failures) return
    delivery.signal?.throwIfAborted()
    const failed = new Set(failures.map(({ handler }) => handler))
    const succeeded = plan.handlers.map(({ name }) => name).filter((name) => !failed.has(name))
    throw new EventHandlingError(delivery, failures, [...new Set([...before, ...succeeded])])
  }

  function skip(plan: Plan, name: string, id: string): void {
    if (!plan.known && onUnknown === 'deadLetter') throw unknownEvent(name, id)
    skipped++
    hooks.onSkipped?.({ event: name, id, known: plan.known })
  }

  async function accept(message: ReceivedMessage, type: string | undefined, signal: AbortSignal | undefined): Promise<void> {
    const envelope = readEnvelope(message)
    const name = type ?? (envelope.type || (typeOf?.(message) ?? ''))
    const plan = planFor(name)
    if (plan.handlers.length === 0) return skip(plan, name, envelope.id)
    const decoded = plan.definition && decode(plan.definition, message, envelope)
    const event = decoded instanceof Promise ? await decoded : decoded
    const before = message.headers[doneHeader]?.split(',') ?? nobody
    return deliver(plan, new Delivery(envelope, name, event, message, signal), before)
  }

  const processor: EventProcessor<Tx> = {
    on(event, handler, handlerOptions = {}) {
      isDefinition(event, 'on: event')
      checkHandler('on', handler, handlerOptions)
      const other = known.get(event.name)
      if (other && other !== event) throw new TypeError(`${event.name} has two definitions`)
      register(event.name, event, handler as Given, handlerOptions)
      known.set(event.name, event)
      return processor
    },
    onRaw(pattern, handler, handlerOptions = {}) {
      isString(pattern, 'onRaw: pattern')
      checkHandler('onRaw', handler, handlerOptions)
      return register(pattern, undefined, handler as Given, handlerOptions)
    },
    off(event, name) {
      const target = typeof event === 'string' ? event : event.name
      const rest = entries.filter((entry) => entry.event !== target || entry.handler.name !== name)
      const found = rest.length < entries.length
      entries = rest
      plans.clear()
      return found
    },
    processEvent(event, given = byDefault) {
      try {
        assertEvent(event)
        if (given !== byDefault) checkOptions('processEvent', given, signalChecks)
        const { signal } = given
        const plan = planFor(event.name)
        if (plan.handlers.length === 0) {
          skip(plan, event.name, event.id)
          return handled
        }
        const latest = plan.definition && plan.definition.version !== event.version ? upgraded(plan.definition, event) : event
        if (latest instanceof Promise) return latest.then((event) => deliver(plan, new Delivery(event, event.name, event, undefined, signal), nobody))
        return deliver(plan, new Delivery(latest, latest.name, latest, undefined, signal), nobody)
      } catch (error) {
        return Promise.reject(error)
      }
    },
    async processRawEvent(bytes, type, given = {}) {
      if (!(bytes instanceof Uint8Array)) throw new TypeError(`processRawEvent: bytes must be a Uint8Array, got ${shown(bytes)}`)
      isString(type, 'processRawEvent: type')
      checkOptions('processRawEvent', given, rawEventChecks)
      const { id, version, headers = {}, signal } = given
      const message: ReceivedMessage = {
        id: id ?? uuidv7(),
        topic: '',
        key: undefined,
        value: bytes,
        headers: version === undefined ? headers : { ...headers, ce_type: type, ce_dataversion: String(version) },
        timestamp: clock.now(),
        idStable: id !== undefined,
      }
      return accept(message, type, signal)
    },
    async processMessage(message, ctx = {}) {
      assertMessage(message)
      try {
        await accept(message, undefined, ctx.signal)
      } catch (error) {
        // An aborted delivery is not a failed one: it goes back to the broker. A broadcast has no dead letters.
        if (ctx.signal?.aborted || !ctx.deadLetter || ctx.group === undefined || !(error instanceof Error)) throw error
        const headers = error instanceof EventHandlingError && error.done.length > 0 ? { [doneHeader]: error.done.join(',') } : {}
        ctx.deadLetter(errorText(error), { error, headers })
        deadLettered++
        hooks.onDeadLetter?.({ event: message.headers['ce_type'] ?? '', id: message.id, error })
      }
    },
    get topics() {
      return [...new Set(entries.flatMap(({ definition }) => definition?.topic ?? []))]
    },
    metrics: () => ({ handlers: entries.map(({ event, handler }) => handler.meter.read(event, handler.name)), skipped, separated, deadLettered }),
  }
  return processor
}

const byDefault: { signal?: AbortSignal } = {}
const nobody: readonly string[] = []

type Given = EventHandlerFunction<unknown, unknown> | EventHandler<unknown, unknown>

function handlerOf(given: Given, raw: boolean, options: HandlerOptions, shared: Pick<Handler, 'inbox' | 'clock' | 'abortGraceMs'>): Handler {
  const { name = typeof given === 'function' ? given.name : given.constructor.name, timeoutMs, policy } = options
  const { maxAttempts = 3, initialDelayMs: initialMs = 100, maxDelayMs: maxMs = 30_000, multiplier = 2 } = options.retry ?? {}
  if (!/^[\w.:/$-]{1,128}$/.test(name) || name === 'Object') {
    const hint = options.name === undefined ? `; one that has none of its own gets it as ${raw ? 'onRaw(pattern' : 'on(Event'}, handler, { name })` : ''
    throw new TypeError(`A handler needs a name of 1 to 128 of A-Z a-z 0-9 _ . : / $ -, got ${JSON.stringify(name)}${hint}`)
  }
  const handle = typeof given === 'function' ? given : given.handle.bind(given)
  const delayMs = (failures: number): number => fullJitter(failures, { initialMs, maxMs, multiplier })
  const refused = (error: unknown): boolean => saysNo('retry.isRetryable', warning, () => options.retry?.isRetryable?.(error))
  return { ...shared, name, raw, handle, maxAttempts, delayMs, refused, timeoutMs, policy, meter: createMeter() }
}

function upgraded(definition: AnyEventDefinition, event: DomainEvent): DomainEvent | Promise<DomainEvent> {
  const build = (data: unknown): DomainEvent => Object.freeze({ ...event, version: definition.version, data })
  const data = toLatest(definition, event.version, event.data)
  return data instanceof Promise ? data.then(build) : build(data)
}

/** `*` stands for any text; everything else for itself. */
function globOf(pattern: string): (type: string) => boolean {
  const regex = new RegExp(
    `^${pattern
      .split('*')
      .map((text) => text.replaceAll(/[\\^$.|?+()[\]{}]/g, String.raw`\$&`))
      .join('.*')}$`,
    's',
  )
  return (type) => regex.test(type)
}
