import { deferred } from '#internal/abort'
import type { Clock } from '#internal/clock'
import { checkOptions, integer, isSignal, milliseconds } from '#internal/options'
import { closedError, MessagingError } from './errors.ts'
import type { HandlerContext, Job } from './job.ts'
import type { Message } from './message.ts'
import { retryChecks } from './options.ts'
import type { SubscribeOptions } from './broker.ts'
import type { Handler } from './runner.ts'
import type { Subscription } from './subscription.ts'

/** A message in the caller's hands until it is settled. A second settlement changes nothing. */
export interface Pulled<T = Uint8Array> {
  readonly message: Message<T>
  /** Aborts when it is no longer the caller's: what is settled then counts for nobody. */
  readonly signal: AbortSignal
  ack(): void
  /** A failed run: the retry policy decides, `delayMs` replaces its backoff. */
  retry(options?: { delayMs?: number; error?: unknown }): void
  deadLetter(reason: string, options?: { error?: unknown }): void
  skip(): void
}

/** As a subscription is opened, but for what a handler has and a puller has not: `prefetch` bounds what is in hand, and who holds a message decides how long. */
export type PullOptions<T = Uint8Array> = Omit<SubscribeOptions<T>, 'group' | 'concurrency' | 'handlerTimeoutMs'> & { readonly group: string }

/** Batches on demand, settled message by message. */
export interface Puller<T = Uint8Array> {
  /** At most `max`, at least one if there is one within `waitMs` (default 1,000), else nothing. */
  next(max: number, options?: { waitMs?: number; signal?: AbortSignal }): Promise<readonly Pulled<T>[]>
  readonly subscription: Subscription
  /** What was pulled and not settled goes back to the broker. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

const pulledChecks = { ...retryChecks, error: () => undefined }
const nextChecks = { waitMs: milliseconds(), signal: isSignal }

/** A puller is a subscription whose handler hands the message over and waits. */
export async function createPuller<T>(
  clock: Clock,
  subscribe: (handler: Handler<T>) => Promise<Subscription>,
  onClosed: () => void = () => undefined,
): Promise<Puller<T>> {
  /** Handed over by the broker, and to nobody yet. */
  const waiting = new Map<Pulled<T>, Job>()
  /** For every call of `next` that waits. */
  let arrived = deferred()
  let closed = false

  const news = (): void => {
    arrived.resolve()
    arrived = deferred()
  }

  const handler = (message: Message<T>, context: HandlerContext): Promise<void> =>
    new Promise((resolve, reject) => {
      let settled = false
      const settle = (how: () => void): void => {
        if (settled) return
        how()
        settled = true
      }
      const pulled: Pulled<T> = {
        message,
        signal: context.signal,
        ack: () => settle(resolve),
        skip: () =>
          settle(() => {
            context.skip()
            resolve()
          }),
        retry: (options = {}) => {
          checkOptions('retry', options, pulledChecks)
          const { delayMs, error } = options
          settle(() => {
            if (error !== undefined && delayMs === undefined) return reject(error)
            context.retry(delayMs === undefined ? {} : { delayMs })
            resolve()
          })
        },
        deadLetter: (reason, options = {}) =>
          settle(() => {
            context.deadLetter(reason, options)
            resolve()
          }),
      }
      // Nobody settles what was taken away: the slot is freed here.
      context.signal.addEventListener('abort', () => settle(() => reject(context.signal.reason as Error)), { once: true })
      waiting.set(pulled, context as Job)
      news()
    })

  const subscription = await subscribe(handler)

  const close = async (): Promise<void> => {
    closed = true
    news()
    const closing = subscription.close()
    // Nobody can ask for these any more: they need not be waited for.
    for (const job of waiting.values()) job.abort(new MessagingError('ERR_MESSAGING_SHUTDOWN', 'The puller closed', { retryable: true }))
    await closing
    onClosed()
  }

  return {
    subscription,
    next: async (max, options = {}) => {
      integer(1)(max, 'next: max')
      checkOptions('next', options, nextChecks)
      const { waitMs = 1_000, signal } = options
      if (closed) throw closedError('The puller')
      signal?.throwIfAborted()
      const end = new AbortController()
      const limit = signal ? AbortSignal.any([signal, end.signal]) : end.signal
      const timer = clock.sleep(waitMs, { signal: limit }).catch(() => undefined)
      let over = false
      void timer.then(() => (over = true))
      for (;;) {
        // Before anything is taken: what is taken must reach the caller.
        signal?.throwIfAborted()
        const batch: Pulled<T>[] = []
        for (const one of waiting.keys()) {
          if (batch.length === max) break
          waiting.delete(one)
          if (!one.signal.aborted) batch.push(one)
        }
        if (batch.length > 0 || over || closed) {
          end.abort()
          return batch
        }
        await Promise.race([arrived.promise, timer])
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}
