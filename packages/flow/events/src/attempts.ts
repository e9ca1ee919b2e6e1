import type { Clock } from '#internal/clock'
import { type HandlerFailure, isRetryable } from './errors.ts'
import type { ProcessorHooks } from './hooks.ts'
import { type Delivery, done, type Handler, runOnce } from './run.ts'

/** Sees handlers through their attempts, and counts what came of them. */
export interface Attempts {
  /** When the handler ended, if it has; else what will be known when it does. Never throws, and what it gives never rejects. */
  start(handler: Handler, delivery: Delivery, startedAt: number): number | Promise<HandlerFailure | undefined>
  /** Counts a run that succeeded; gives when it ended. */
  succeed(handler: Handler, delivery: Delivery, attempt: number, startedAt: number, duplicate: boolean): number
}

export function createAttempts(clock: Clock, hooks: ProcessorHooks): Attempts {
  function start(handler: Handler, delivery: Delivery, startedAt: number): number | Promise<HandlerFailure | undefined> {
    handler.meter.inFlight++
    try {
      const running = runOnce(handler, delivery, 1)
      if (running !== done) return finish(handler, delivery, startedAt, running)
      return succeed(handler, delivery, 1, startedAt, false)
    } catch (error) {
      return finish(handler, delivery, startedAt, Promise.reject(error))
    }
  }

  /** Sees a handler to its end, in as many runs as it takes. Never rejects. */
  async function finish(handler: Handler, delivery: Delivery, firstStart: number, first: PromiseLike<unknown>): Promise<HandlerFailure | undefined> {
    let startedAt = firstStart
    let running: typeof done | PromiseLike<unknown> = first
    for (let attempt = 1; ; attempt++) {
      try {
        if (attempt > 1) {
          startedAt = clock.monotonic()
          running = runOnce(handler, delivery, attempt)
        }
        const answer = await running
        succeed(handler, delivery, attempt, startedAt, handler.inbox !== undefined && (answer as { duplicate: boolean }).duplicate)
        return undefined
      } catch (error) {
        handler.meter.observe(clock.monotonic() - startedAt)
        if (await another(handler, delivery, attempt, error)) continue
        handler.meter.inFlight--
        return { handler: handler.name, error, attempts: attempt }
      }
    }
  }

  /** Whether to run again, after the wait. */
  async function another(handler: Handler, delivery: Delivery, attempt: number, error: unknown): Promise<boolean> {
    const { meter, name, maxAttempts } = handler
    const about = { event: delivery.name, id: delivery.id, handler: name, attempt, error }
    if (delivery.signal?.aborted) return false // not its own failure: the whole delivery comes again
    if (attempt < maxAttempts && isRetryable(error) && !handler.refused(error)) {
      const delayMs = handler.delayMs(attempt)
      hooks.onRetry?.({ ...about, delayMs })
      if (!(await waited(delayMs, delivery.signal))) return false
      meter.retried++
      return true
    }
    meter.failed++
    hooks.onFailed?.(about)
    return false
  }

  function succeed(handler: Handler, delivery: Delivery, attempt: number, startedAt: number, duplicate: boolean): number {
    const { meter, name } = handler
    const endedAt = clock.monotonic()
    const durationMs = endedAt - startedAt
    meter.inFlight--
    meter.observe(durationMs)
    if (duplicate) meter.duplicates++
    else meter.processed++
    hooks.onProcessed?.({ event: delivery.name, id: delivery.id, handler: name, attempt, durationMs, duplicate })
    return endedAt
  }

  const waited = (ms: number, signal: AbortSignal | undefined): Promise<boolean> =>
    clock.sleep(ms, { signal }).then(
      () => true,
      () => false,
    )

  return { start, succeed }
}
