import type { Correlation, DomainEvent } from './event.ts'
import type { ReceivedMessage } from './message.ts'

/** What a handler gets beside the event. */
export interface HandlerContext<Tx = undefined> {
  /** Aborts with the delivery's signal and when the handler's `timeoutMs` is over. */
  readonly signal: AbortSignal
  /** Which run of this handler in this delivery, from 1. */
  readonly attempt: number
  /** The name under which the handler is registered. */
  readonly handler: string
  /** The message that brought the event; absent with `processEvent`. */
  readonly message: ReceivedMessage | undefined
  /** For events that follow from this one: its tenant, correlation and trace, itself as their cause. */
  readonly correlation: Correlation
  /** The inbox's transaction: what is written on it commits together with the record that this handler is done. */
  readonly tx: Tx
}

/** A message as it came, for handlers that take it undecoded. */
export interface RawEvent {
  readonly id: string
  /** The name that a pattern was matched with; `''` when the message does not say. */
  readonly type: string
  readonly value: Uint8Array
  readonly headers: Readonly<Record<string, string>>
}

/** A function of event and context, for one event's type. */
export type EventHandlerFunction<E = DomainEvent, Tx = undefined> = (event: E, ctx: HandlerContext<Tx>) => unknown

/** The same as an object: the port that an application's core implements. */
export interface EventHandler<E = DomainEvent, Tx = undefined> {
  handle(event: E, ctx: HandlerContext<Tx>): unknown
}

/** A circuit breaker, a limiter, a bulkhead: anything that runs a function under its own rules. */
export interface Policy {
  execute<T>(fn: (attempt?: { signal?: AbortSignal }) => Promise<T>, options: { signal: AbortSignal }): Promise<T>
}

/** What an inbox needs to know of a message. */
export interface InboxMessage {
  readonly id: string
  /** Ms since the epoch. */
  readonly timestamp: number
  readonly idStable: boolean
}

/** Remembers by message and handler, in one transaction with the handler's effects. */
export interface Inbox<Tx> {
  /** Runs `fn` in a transaction, unless it ran before: then `duplicate` is true. */
  run(message: InboxMessage, handlerName: string, fn: (tx: Tx) => Promise<void>): Promise<{ duplicate: boolean }>
  /** The same for several handlers in one transaction: `fn` gets the names of those that did not run before; with none there is nothing to call it for. */
  runTogether?(message: InboxMessage, handlerNames: readonly string[], fn: (tx: Tx, handlerNames: readonly string[]) => Promise<void>): Promise<unknown>
}

/** How often a handler runs, and what it waits between. */
export interface RetryOptions {
  /** Runs in all. @default 3 */
  maxAttempts?: number | undefined
  /** Upper bound of the first wait; waits are uniform below their bound (full jitter). @default 100 */
  initialDelayMs?: number | undefined
  /** @default 30_000 */
  maxDelayMs?: number | undefined
  /** Growth of the bound. @default 2 */
  multiplier?: number | undefined
  /** False ends the runs; a predicate that throws or gives a promise has not said so, and is a process warning, once. Asked after the error's own `retryable: false`. */
  isRetryable?: ((error: unknown) => boolean) | undefined
}

/** How one handler is run. */
export interface HandlerOptions {
  /** Unique among an event's handlers, and the same after a restart: inbox and dead letters know the handler by it. An inline function has none and must be given one. @default the function's name, the class's of an object */
  name?: string | undefined
  /** @default the processor's */
  retry?: RetryOptions | undefined
  /** For each run. @default none */
  timeoutMs?: number | undefined
  /** Around each run. */
  policy?: Policy | undefined
}
