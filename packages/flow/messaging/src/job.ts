import { checkOptions, isString } from '#internal/options'
import type { Delivery } from './driver.ts'
import { warning } from './hooks.ts'
import type { Message } from './message.ts'
import { checkHeaders } from './names.ts'
import { letterChecks, retryChecks } from './options.ts'
import type { Owned } from './owned.ts'
import type { Lane } from './owned.ts'
import { type Trail, trailOf } from './wire.ts'

/** What a handler knows and may say besides returning (ack) or throwing (retry). */
export interface HandlerContext {
  /** Aborts, with the reason, on handler timeout, shutdown deadline and lost ownership. */
  readonly signal: AbortSignal
  readonly attempt: number
  readonly group: string | undefined
  readonly partition: number
  /** Where the message stands in its partition, as the broker writes it. */
  readonly position: string
  /** Counts as a failed run; `delayMs` replaces the backoff. Takes effect when the handler returns, so return after it. */
  retry(options?: { delayMs?: number }): void
  /** No more runs: to the dead letters, with these headers added. Takes effect when the handler returns, so return after it. */
  deadLetter(reason: string, options?: { error?: unknown; headers?: Readonly<Record<string, string>> }): void
  /** Done without having been handled. Takes effect when the handler returns, so return after it. */
  skip(): void
  /** What the handler has asked for in this run: a middleware that commits something only when the message is done with looks here. */
  readonly asked: 'retry' | 'deadLetter' | 'skip' | undefined
}

export type Said =
  | { readonly kind: 'retry'; readonly delayMs: number | undefined }
  | { readonly kind: 'deadLetter'; readonly reason: string; readonly error: unknown; readonly headers: Readonly<Record<string, string>> }
  | { readonly kind: 'skip' }

/** One delivery on its way through the handler. A class because there is one for each message: methods are shared, the abort controller is made when asked for. */
export class Job implements HandlerContext {
  readonly delivery: Delivery
  readonly owned: Owned
  readonly group: string | undefined
  readonly trail: Trail
  lane: Lane | undefined
  /** The one after it in its lane. */
  next: Job | undefined
  /** Its lane waits for another run of the job before it. */
  behind = false
  message: Message<unknown> | undefined
  failures: number
  firstFailureAt: number | undefined
  said: Said | undefined
  /** Holds a slot; until the handler's promise settles. */
  running = false
  /** Waits for another run, outside its lane's queue. */
  waiting = false
  /** Settled in the group: progress may pass it. */
  finished = false
  /** Goes back to the broker unsettled. */
  dropped = false
  startedAt = 0
  /** Ends the handler's timer. */
  timer: AbortController | undefined
  /** Its handler outlived the grace after an abort. */
  stuck = false
  /** Why the run was counted as failed although its handler goes on. */
  overdue: unknown
  /** A retry copy or a dead letter is being stored. */
  concluding = false
  /** Resolves when that is done and the slot is free. */
  conclusion: Promise<void> | undefined
  /** Its start was recorded, because it is suspect. */
  begun = false
  abortReason: unknown
  #controller: AbortController | undefined

  constructor(delivery: Delivery, owned: Owned, group: string | undefined) {
    this.delivery = delivery
    this.owned = owned
    this.group = group
    this.trail = trailOf(delivery.message.headers)
    this.failures = this.trail.failures
    this.firstFailureAt = this.trail.firstFailureAt
  }

  get attempt(): number {
    return this.failures + 1
  }
  get partition(): number {
    return this.trail.origin?.partition ?? this.delivery.partition
  }
  get position(): string {
    return this.trail.origin?.position ?? this.delivery.position
  }
  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController()
      if (this.abortReason !== undefined) this.#controller.abort(this.abortReason)
    }
    return this.#controller.signal
  }

  abort(reason: unknown): void {
    if (this.abortReason !== undefined) return
    this.abortReason = reason
    this.#controller?.abort(reason)
  }

  /** Another run of the same delivery starts clean. */
  reset(): void {
    this.said = undefined
    this.abortReason = undefined
    this.overdue = undefined
    this.#controller = undefined
    this.message = undefined
  }

  retry(options: { delayMs?: number } = {}): void {
    checkOptions('ctx.retry', options, retryChecks)
    this.#inTime('retry')
    this.said = { kind: 'retry', delayMs: options.delayMs }
  }
  deadLetter(reason: string, options: { error?: unknown; headers?: Readonly<Record<string, string>> } = {}): void {
    if (this.group === undefined) throw new TypeError('There are no dead letters without a group')
    isString(reason, 'ctx.deadLetter: reason')
    checkOptions('ctx.deadLetter', options, letterChecks)
    const { error, headers = {} } = options
    this.#inTime('deadLetter')
    this.said = { kind: 'deadLetter', reason, error, headers: checkHeaders(headers) }
  }
  /** A handler that does not give its promise back ends before it has said what it wants. */
  #inTime(what: string): void {
    if (!this.running)
      process.emitWarning(`ctx.${what}() after the handler had ended changes nothing: ${this.delivery.message.id}; does it return its promise?`, warning)
  }
  skip(): void {
    this.#inTime('skip')
    this.said = { kind: 'skip' }
  }
  get asked(): Said['kind'] | undefined {
    return this.said?.kind
  }
}
