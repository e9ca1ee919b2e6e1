import type { Clock } from '#internal/clock'
import { shown } from '#internal/options'
import { toMessage } from './envelope.ts'
import { EventError } from './errors.ts'
import type { Correlation, DomainEvent } from './event.ts'
import type { HandlerContext, Inbox, InboxMessage, Policy, RawEvent } from './handler.ts'
import type { Meter } from './metrics.ts'
import type { ReceivedMessage } from './message.ts'

/** One event on its way to its handlers. A class, as below, because there is one for every event. */
export class Delivery {
  readonly name: string
  readonly id: string
  readonly event: DomainEvent | undefined
  readonly message: ReceivedMessage | undefined
  readonly signal: AbortSignal | undefined
  readonly #envelope: Correlation

  /** `event` is absent when all its handlers are raw; then there is a message. */
  constructor(
    envelope: Correlation & { id: string },
    name: string,
    event: DomainEvent | undefined,
    message: ReceivedMessage | undefined,
    signal: AbortSignal | undefined,
  ) {
    this.name = name
    this.id = envelope.id
    this.event = event
    this.message = message
    this.signal = signal
    this.#envelope = envelope
  }

  raw(): RawEvent {
    const { value, headers = {} } = this.message ?? toMessage(this.event!)
    return { id: this.id, type: this.name, value, headers }
  }

  /** As the inbox knows it. */
  recorded(): InboxMessage {
    return this.message ?? { id: this.id, timestamp: this.event!.occurredAt.getTime(), idStable: true }
  }

  correlation(): Correlation {
    const { tenantId, correlationId = this.id, traceparent, tracestate } = this.#envelope
    return { tenantId, correlationId, causationId: this.id, traceparent, tracestate }
  }
}

/** A handler as it was registered, with what holds for all its runs. */
export interface Handler {
  readonly name: string
  readonly raw: boolean
  readonly handle: (event: unknown, ctx: HandlerContext<unknown>) => unknown
  readonly maxAttempts: number
  readonly delayMs: (failures: number) => number
  /** Whether the handler's own predicate ends the runs. */
  readonly refused: (error: unknown) => boolean
  readonly timeoutMs: number | undefined
  readonly policy: Policy | undefined
  readonly inbox: Inbox<unknown> | undefined
  readonly clock: Clock
  readonly abortGraceMs: number
  readonly meter: Meter
}

/** A class because there is one for every run: what few handlers ask for is made when they ask. */
class Context implements HandlerContext<unknown> {
  readonly attempt: number
  readonly #handler: Handler
  readonly #delivery: Delivery
  readonly tx: unknown
  #signal: AbortSignal | undefined

  constructor(handler: Handler, delivery: Delivery, attempt: number, signal: AbortSignal | undefined, tx: unknown) {
    this.#handler = handler
    this.#delivery = delivery
    this.attempt = attempt
    this.#signal = signal
    this.tx = tx
  }

  get signal(): AbortSignal {
    return (this.#signal ??= this.#delivery.signal ?? new AbortController().signal)
  }
  get handler(): string {
    return this.#handler.name
  }
  get message(): ReceivedMessage | undefined {
    return this.#delivery.message
  }
  get correlation(): Correlation {
    return this.#delivery.correlation()
  }
}

/** What `runOnce` gives when the handler has ended already; what comes asynchronously is the inbox's answer or means nothing. */
export const done: unique symbol = Symbol('done')

/** Runs a handler once: policy around timeout around inbox around handler. Throws and ends synchronously where the handler does. */
export function runOnce(handler: Handler, delivery: Delivery, attempt: number): typeof done | PromiseLike<unknown> {
  const { policy, timeoutMs, inbox, name } = handler
  if (!policy) return timeoutMs === undefined ? call(handler, delivery, attempt, undefined) : timed(handler, delivery, attempt, timeoutMs, delivery.signal)
  const answer = policy.execute<unknown>(
    async (given) => {
      const signal = given?.signal ?? delivery.signal
      return timeoutMs === undefined ? call(handler, delivery, attempt, signal) : timed(handler, delivery, attempt, timeoutMs, signal)
    },
    { signal: delivery.signal ?? new AbortController().signal },
  )
  return inbox ? handedOn(answer, name) : answer
}

/** The effects may have committed, or the handler may never have run: without the inbox's answer nobody knows, and another run would not tell. */
async function handedOn(answer: PromiseLike<unknown>, handler: string): Promise<unknown> {
  const given = await answer
  if (typeof (given as { duplicate?: unknown } | null | undefined)?.duplicate === 'boolean') return given
  const text = `The policy of ${handler} must resolve to what the function given to its execute resolves to, got ${shown(given)}`
  throw Object.assign(new TypeError(text), { retryable: false })
}

function call(handler: Handler, delivery: Delivery, attempt: number, signal: AbortSignal | undefined): typeof done | PromiseLike<unknown> {
  const { inbox } = handler
  if (inbox) {
    return inbox.run(delivery.recorded(), handler.name, async (tx) => {
      await handle(handler, delivery, attempt, signal, tx)
    })
  }
  const result = handle(handler, delivery, attempt, signal, undefined) as PromiseLike<unknown> | null | undefined
  return typeof result?.then === 'function' ? result : done
}

function handle(handler: Handler, delivery: Delivery, attempt: number, signal: AbortSignal | undefined, tx: unknown): unknown {
  return handler.handle(handler.raw ? delivery.raw() : delivery.event, new Context(handler, delivery, attempt, signal, tx))
}

/** Runs handlers side by side in one transaction: all of them take effect or none. Gives the names of those that ran; the others had run before. */
export async function runTogether(inbox: Required<Inbox<unknown>>, handlers: readonly Handler[], delivery: Delivery): Promise<readonly string[]> {
  let ran: readonly string[] = []
  const names = handlers.map(({ name }) => name)
  await inbox.runTogether(delivery.recorded(), names, async (tx, names) => {
    ran = names
    const runs = handlers.filter(({ name }) => names.includes(name)).map(async (handler) => handle(handler, delivery, 1, delivery.signal, tx))
    await Promise.allSettled(runs) // none may still use the transaction when it ends
    await Promise.all(runs)
  })
  return ran
}

const over: unique symbol = Symbol('over')

/**
 * A handler that minds its signal ends within the grace, and what it then says counts. One that does not has failed for good:
 * a second run would stand beside the first.
 */
async function timed(handler: Handler, delivery: Delivery, attempt: number, timeoutMs: number, outer: AbortSignal | undefined): Promise<unknown> {
  const { clock, abortGraceMs, meter, name } = handler
  const controller = new AbortController()
  const timer = new AbortController()
  const onOuterAbort = (): void => controller.abort(outer!.reason)
  if (outer?.aborted) onOuterAbort()
  else outer?.addEventListener('abort', onOuterAbort, { once: true })
  const pause = (ms: number): Promise<typeof over> =>
    clock.sleep(ms, { signal: timer.signal }).then(
      () => over,
      () => over,
    )
  try {
    const work = (async () => call(handler, delivery, attempt, controller.signal))()
    const first = await Promise.race([work, pause(timeoutMs)])
    if (first !== over) return first
    const timeout = new EventError('ERR_EVENTS_TIMEOUT', `${name} did not handle ${delivery.name} ${delivery.id} within ${timeoutMs} ms`, { retryable: true })
    controller.abort(timeout)
    const late = work.catch((cause: unknown) => {
      throw cause === timeout ? timeout : Object.assign(timeout, { cause })
    })
    const second = await Promise.race([late, pause(abortGraceMs)])
    if (second !== over) return second
    meter.stuck++
    const unstuck = (): void => void meter.stuck--
    late.then(unstuck, unstuck)
    const text = `${name} ignores its signal: still at ${delivery.name} ${delivery.id}, ${abortGraceMs} ms after its timeout of ${timeoutMs} ms`
    throw new EventError('ERR_EVENTS_TIMEOUT', text)
  } finally {
    timer.abort()
    outer?.removeEventListener('abort', onOuterAbort)
  }
}
