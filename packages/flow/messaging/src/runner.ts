import { enough } from '#internal/abort'
import type { Clock } from '#internal/clock'
import { errorText } from '#internal/thrown'
import type { Consumption } from './driver.ts'
import { MessagingError } from './errors.ts'
import { type Hooks, type Outcome, tell } from './hooks.ts'
import type { HandlerContext, Job } from './job.ts'
import type { Codec, Message } from './message.ts'
import type { RetryPolicy } from './retry.ts'
import type { Copies, LetterExtra } from './copies.ts'
import { userHeaders } from './wire.ts'

/** Return acknowledges, throw follows the retry policy. */
export type Handler<T = Uint8Array> = (message: Message<T>, context: HandlerContext) => unknown

/** Wraps a handler: `(next) => (message, context) => …`. The first of a list is the outermost. */
export type Middleware = (next: Handler<unknown>) => Handler<unknown>

export interface RunnerOptions {
  readonly group: string | undefined
  readonly handler: Handler<unknown>
  readonly codec: Codec<unknown> | undefined
  readonly policy: RetryPolicy
  readonly handlerTimeoutMs: number | undefined
  readonly abortGraceMs: number
  readonly maxCrashes: number
  readonly clock: Clock
  readonly hooks: Hooks
  /** One suspect at a time in the whole process, so that a crash blames only one. */
  readonly suspects: Turnstile
  /** Absent without a group: there is nowhere to publish to. */
  readonly copies: Copies | undefined
  /** Whether a message that fails for good becomes a dead letter, or is dropped. */
  readonly deadLetter: boolean
}

/** What the runner tells the subscription. */
export interface RunnerEvents {
  /** Progress may pass this job. */
  finish(job: Job, outcome: Outcome): void
  /** The slot is free; `again`: its lane waits and the job comes back. */
  free(job: Job, again: boolean): void
  /** Resolves when everything finished so far is stored, or could not be. */
  stored(job: Job): Promise<void>
  /** The wait is over: the job goes to the front of its lane. */
  resume(job: Job): void
  stuck(job: Job, count: 1 | -1): void
  failed(job: Job): void
}

export interface Turnstile {
  enter(): Promise<() => void>
}

export interface Runner {
  /** Runs a job that holds a slot. Never throws. */
  run(job: Job, consumption: Consumption): void
  /** Aborts a running job's signal; if its handler goes on beyond the grace, it is stuck. */
  abort(job: Job, reason: MessagingError): void
}

/** Takes one delivery through its handler to an outcome: retry, delay, dead letter, timeout. The happy path allocates no promise for a handler that returns none. */
export function createRunner(options: RunnerOptions, events: RunnerEvents): Runner {
  const { group, codec, clock, hooks, policy, handlerTimeoutMs, copies } = options
  const timed = hooks.onSettled !== undefined

  const run = (job: Job, consumption: Consumption): void => {
    job.reset()
    const { message } = job.delivery
    if (job.trail.deliverAt !== undefined && job.trail.deliverAt > clock.now()) return wait(job, job.trail.deliverAt - clock.now())
    job.message = received(job, message.value)
    if (!codec && !job.delivery.suspect) return call(job)
    prepare(job, consumption).then(
      (leave) => {
        if (leave) call(job, leave)
      },
      (error: unknown) => ended(job, { error, final: true }, undefined),
    )
  }

  /** Decodes; for a suspect, records the start first. Gives what to call at the end, or nothing when the job is dealt with. */
  const prepare = async (job: Job, consumption: Consumption): Promise<(() => void) | undefined> => {
    const leave = job.delivery.suspect ? await enter() : nothing
    try {
      if (gone(job)) return given(job, leave)
      if (job.delivery.suspect) {
        // Once a delivery: another run after a failure is no sign of a crash.
        const starts = job.begun ? 0 : await consumption.begin(job.delivery)
        job.begun = true
        if (starts > options.maxCrashes) {
          leave()
          const crashed = new MessagingError('ERR_MESSAGING_CRASH_LOOP', `The process ended ${starts - 1} times while it was handled`, { retryable: false })
          ended(job, { error: crashed, final: true }, undefined)
          return undefined
        }
      }
    } catch (error) {
      // The broker did not take the record: the job stays where it is and is tried again.
      leave()
      tell(hooks, 'onError', { error, topic: job.owned.source.topic, group })
      wait(job, 1_000)
      return undefined
    }
    if (codec)
      try {
        const { value, headers } = job.message!
        job.message = received(job, await codec.decode(value, headers))
      } catch (cause) {
        leave()
        throw new MessagingError('ERR_MESSAGING_DECODE', `Cannot decode: ${errorText(cause)}`, { retryable: false, cause })
      }
    // Lost while it was decoded.
    if (gone(job)) return given(job, leave)
    return leave
  }

  /** To the turnstile, for as long as the run lasts, also when its partition is lost; what runs longer than this is not what ends processes at once. */
  const enter = async (): Promise<() => void> => {
    const leave = await options.suspects.enter()
    const over = new AbortController()
    clock.sleep(suspicionMs, { signal: over.signal, background: true }).then(leave, leave)
    return () => over.abort(enough)
  }

  const given = (job: Job, leave: () => void): undefined => {
    leave()
    events.free(job, false)
    return undefined
  }

  const call = (job: Job, leave?: () => void): void => {
    if (hooks.onDelivery) tell(hooks, 'onDelivery', { message: job.message!, group })
    if (timed) job.startedAt = clock.monotonic()
    if (handlerTimeoutMs !== undefined) startTimer(job, handlerTimeoutMs)
    let result: unknown
    try {
      result = options.handler(job.message!, job)
      // Not everything that can be awaited keeps the rules of a promise.
      if (isThenable(result) && !(result instanceof Promise)) result = Promise.resolve(result)
    } catch (error) {
      return ended(job, { error }, leave)
    }
    if (result instanceof Promise)
      result.then(
        () => ended(job, undefined, leave),
        (error: unknown) => ended(job, { error }, leave),
      )
    else ended(job, undefined, leave)
  }

  const startTimer = (job: Job, ms: number): void => {
    const timer = (job.timer = new AbortController())
    clock.sleep(ms, { signal: timer.signal }).then(
      () => abort(job, new MessagingError('ERR_MESSAGING_HANDLER_TIMEOUT', `The handler took more than ${ms} ms`, { retryable: true })),
      () => undefined,
    )
  }

  const abort = (job: Job, reason: MessagingError): void => {
    if (!job.running || job.stuck || job.concluding) return
    job.timer?.abort(enough)
    job.abort(reason)
    const grace = (job.timer = new AbortController())
    clock.sleep(options.abortGraceMs, { signal: grace.signal, background: true }).then(
      () => overdue(job, reason),
      () => undefined,
    )
  }

  /** The delivery is settled as failed where that needs no second run; the slot and the lane stay taken until the handler ends. */
  const overdue = (job: Job, reason: MessagingError): void => {
    if (!job.running) return
    job.stuck = true
    events.stuck(job, 1)
    tell(hooks, 'onStuck', { message: job.message!, group, reason })
    if (gone(job) || reason.code !== 'ERR_MESSAGING_HANDLER_TIMEOUT') return
    const verdict = judge(job, reason, undefined)
    job.overdue = reason
    if (verdict.kind !== 'wait') void conclude(job, verdict, reason, {})
  }

  const ended = (job: Job, failure: { error: unknown; final?: boolean } | undefined, leave: (() => void) | undefined): void => {
    decide(job, failure)
    // What a suspect did is stored before the next one starts: if that one ends the process, this one is not blamed.
    if (leave)
      void Promise.resolve(job.conclusion)
        .then(() => events.stored(job))
        .then(leave, leave)
  }

  const decide = (job: Job, failure: { error: unknown; final?: boolean } | undefined): void => {
    if (job.timer) {
      job.timer.abort(enough)
      job.timer = undefined
    }
    if (job.stuck) {
      job.stuck = false
      events.stuck(job, -1)
    }
    // A zombie's completion counts for nobody.
    if (gone(job) || job.finished || job.concluding) return events.free(job, false)
    // Counted as failed when the grace ended: its next run waited only for the slot.
    if (job.overdue !== undefined) return act(job, policy(job.overdue, job.failures, undefined), job.overdue, {})
    if (failure) {
      if (interrupted(job)) return drop(job)
      const verdict = judge(job, failure.error, undefined, failure.final)
      return act(job, verdict, failure.error, {})
    }
    const { said } = job
    if (!said) return done(job, 'acked')
    if (said.kind === 'skip') return done(job, 'skipped')
    if (said.kind === 'retry') {
      const asked = new MessagingError('ERR_MESSAGING_RETRY', 'The handler asked for a retry', { retryable: true })
      return act(job, judge(job, asked, said.delayMs), asked, {})
    }
    const reason = said.error ?? new MessagingError('ERR_MESSAGING_REJECTED', said.reason, { retryable: false })
    judge(job, reason, undefined)
    act(job, { kind: 'dead' }, reason, { reason: said.reason, headers: said.headers })
  }

  /** Counts the failure and asks the policy. */
  const judge = (job: Job, error: unknown, delayMs: number | undefined, final = false): ReturnType<RetryPolicy> => {
    job.failures++
    job.firstFailureAt ??= clock.now()
    events.failed(job)
    tell(hooks, 'onError', { error, topic: job.owned.source.topic, group, message: job.message! })
    return final ? { kind: 'dead' } : policy(error, job.failures, delayMs)
  }

  const act = (job: Job, verdict: ReturnType<RetryPolicy>, error: unknown, extra: LetterExtra): void => {
    if (verdict.kind === 'wait') return wait(job, verdict.delayMs)
    job.conclusion = conclude(job, verdict, error, extra).then(() => events.free(job, false))
  }

  /** Stores the copy or the letter, however long that takes, then lets progress pass. Until then the original stays unsettled. */
  const conclude = async (job: Job, verdict: ReturnType<RetryPolicy>, error: unknown, extra: LetterExtra): Promise<void> => {
    job.concluding = true
    for (let pause = 50; !gone(job) && !job.finished; pause = Math.min(pause * 2, 5_000)) {
      const storing = verdict.kind === 'dead' ? (options.deadLetter ? copies?.letter(job, error, extra) : undefined) : copies?.retry(job, verdict.delayMs)
      if (!storing) return settle(job, 'dropped')
      const result = await storing.catch((cause: unknown) => ({ status: 'rejected' as const, error: cause }))
      if (gone(job) || job.finished) return
      if (result.status === 'stored') return settle(job, verdict.kind === 'dead' ? 'dead-lettered' : 'retried')
      tell(hooks, 'onError', { error: result.error, topic: job.owned.source.topic, group, message: job.message! })
      await clock.sleep(pause, { signal: job.owned.gone.signal }).catch(() => undefined)
    }
  }

  const wait = (job: Job, ms: number): void => {
    events.free(job, true)
    clock.sleep(ms, { signal: job.owned.gone.signal }).then(
      () => events.resume(job),
      () => undefined,
    )
  }

  const settle = (job: Job, outcome: Outcome): void => {
    events.finish(job, outcome)
    if (timed) tell(hooks, 'onSettled', { message: job.message!, group, outcome, durationMs: clock.monotonic() - job.startedAt })
  }

  const done = (job: Job, outcome: Outcome): void => {
    settle(job, outcome)
    events.free(job, false)
  }

  const drop = (job: Job): void => {
    job.dropped = true
    events.free(job, false)
  }

  return { run, abort }

  function received(job: Job, body: unknown): Message<unknown> {
    const { message } = job.delivery
    return {
      id: message.id,
      idStable: message.idStable,
      topic: job.trail.origin?.topic ?? job.owned.source.topic,
      key: message.key,
      value: message.value,
      body,
      headers: userHeaders(message.headers),
      timestamp: message.timestamp,
      attempt: job.failures + 1,
      tombstone: message.tombstone,
      rawKey: message.rawKey,
      rawHeaders: message.rawHeaders,
    }
  }
}

const suspicionMs = 5_000
const nothing = (): void => undefined
const gone = (job: Job): boolean => job.dropped || job.owned.gone.signal.aborted
/** Aborted for a reason that is not the message's: it goes back to the broker, and the run does not count. */
const interrupted = (job: Job): boolean => job.abortReason instanceof MessagingError && job.abortReason.code !== 'ERR_MESSAGING_HANDLER_TIMEOUT'

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
